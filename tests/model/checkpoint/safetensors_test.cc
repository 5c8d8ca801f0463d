#include "model/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/testing/temp_folder.h"

namespace chorale {
namespace {

using testing::HasSubstr;

struct Refusal {
  const char* what;
  std::string file;
  const char* message;
};

std::string Entry(const char* name, const char* fields) {
  return std::string("{\"") + name + "\":{" + fields + "}}";
}

// One tensor 'a' with these fields over 8 bytes of data.
std::string WithFields(const char* fields) {
  return SafetensorsBytes(Entry("a", fields), std::string(8, 'x'));
}

void ExpectRefused(const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.what);
    const auto tensors = ParseSafetensors(AsBytes(refusal.file), "m.safetensors");
    EXPECT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(tensors.status().message());
    EXPECT_THAT(message, HasSubstr("m.safetensors: "));
    EXPECT_THAT(message, HasSubstr(refusal.message));
  }
}

TEST(SafetensorsTest, RefusesHeadersThatLie) {
  const std::string entry = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  ExpectRefused({
      {"empty", "", "truncated: 0 bytes"},
      {"shorter than the length", "1234567", "truncated: 7 bytes"},
      {"length beyond the file", SafetensorsBytes(3, "{}"), "the header has 3 bytes, but only 2"},
      {"huge length", SafetensorsBytes(UINT64_MAX, "{}"), "header of 18446744073709551615 bytes"},
      {"length that overflows", SafetensorsBytes(UINT64_MAX - 7, "{}"), "more than the limit"},
      {"not JSON", SafetensorsBytes("{\"a\":"), "not valid JSON"},
      {"no header", SafetensorsBytes(""), "not valid JSON"},
      {"not UTF-8", SafetensorsBytes("{\"\xff\":1}"), "not valid JSON"},
      {"not an object", SafetensorsBytes("[]"), "the header is not an object"},
      {"deep", SafetensorsBytes(std::string(100'000, '[')), "header"},
      {"duplicate name", SafetensorsBytes("{" + entry + "," + entry + "}", "x"), "holds 'a' twice"},
      {"duplicate field",
       SafetensorsBytes(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                        "x"),
       "holds 'dtype' twice"},
      {"entry is a list", SafetensorsBytes(R"({"a":[]})"), "'a': its header entry"},
      {"trailing bytes", SafetensorsBytes("{}", "xyz"), "3 bytes after the last tensor"},
  });
}

TEST(SafetensorsTest, RefusesFieldsThatLie) {
  ExpectRefused({
      {"unknown dtype", WithFields(R"("dtype":"F99","shape":[2],"data_offsets":[0,8])"),
       "tensor 'a': dtype 'F99' is not known"},
      {"no dtype", WithFields(R"("shape":[2],"data_offsets":[0,8])"), "'dtype' is missing"},
      {"dtype of another type", WithFields(R"("dtype":5,"shape":[2],"data_offsets":[0,8])"),
       "field 'dtype': expected a string, found 5"},
      {"no shape", WithFields(R"("dtype":"F32","data_offsets":[0,8])"), "'shape' must be"},
      {"negative", WithFields(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
       "'shape' must be"},
      {"two negatives", WithFields(R"("dtype":"F32","shape":[-1,-2],"data_offsets":[0,8])"),
       "'shape' must be"},
      {"fraction", WithFields(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
       "'shape' must be"},
      {"dimension beyond int64",
       WithFields(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"),
       "'shape' must be"},
      {"product beyond int64",
       WithFields(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"),
       "takes more than 2^63 bytes"},
      // 4 * 2^62 * 2^62 is 0 modulo 2^64, and [2^62 + 2] is 8.
      {"product that wraps to the right size",
       WithFields(R"("dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8])"),
       "takes more than 2^63 bytes"},
      {"size does not match", WithFields(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
       "shape [3] of F32 takes 12 bytes, data_offsets give it 8"},
      {"size of another dtype", WithFields(R"("dtype":"BF16","shape":[2],"data_offsets":[0,8])"),
       "shape [2] of BF16 takes 4 bytes"},
      {"no offsets", WithFields(R"("dtype":"F32","shape":[2])"), "'data_offsets' must be"},
      {"three offsets", WithFields(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"),
       "'data_offsets' must be"},
      {"reversed", WithFields(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
       "data_offsets [8, 0] do not lie within the file's 8 bytes"},
      {"beyond the file", WithFields(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"),
       "is it truncated?"},
      {"far beyond",
       WithFields(R"("dtype":"F32","shape":[2],)"
                  R"("data_offsets":[9223372036854775799,9223372036854775807])"),
       "do not lie within"},
      {"hole before", WithFields(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"),
       "a hole of 4 bytes before it"},
      {"hole after", WithFields(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"),
       "4 bytes after the last tensor"},
      {"33 dimensions",
       WithFields(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,)"
                  R"(1,1,1,1,1,2],"data_offsets":[0,8])"),
       "at most 32"},
      {"overlap",
       SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})",
                        std::string(8, 'x')),
       "tensor 'b': its bytes overlap"},
  });
}

TEST(SafetensorsTest, RefusesEveryPrefixOfAFile) {
  const std::string file = SafetensorsBytes(
      {{"a", "F32", {2, 2}, std::string(16, 'a')}, {"b", "I64", {1}, std::string(8, 'b')}});
  ASSERT_TRUE(ParseSafetensors(AsBytes(file), "whole").ok());
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    EXPECT_FALSE(ParseSafetensors(AsBytes(file).first(bytes), "prefix").ok()) << bytes;
  }
}

TEST(SafetensorsTest, GivesTheBytesOfEveryTensor) {
  const std::string file =
      SafetensorsBytes(R"({"__metadata__":{"format":"pt"},)"
                       R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[4,10]},)"
                       R"("a":{"dtype":"I32","shape":[],"data_offsets":[0,4]},)"
                       R"("z":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}})",
                       "aaaabbbbbb");
  const auto tensors = ParseSafetensors(AsBytes(file), "x");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  const Tensor& a = (*tensors)[0];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, std::nullopt);
  EXPECT_EQ(a.bytes.size(), 4u);
  EXPECT_EQ((*tensors)[1].name, "z");
  EXPECT_TRUE((*tensors)[1].bytes.empty());
  const Tensor& b = (*tensors)[2];
  EXPECT_EQ(b.dtype, kernels::DType::kBF16);
  EXPECT_EQ(b.shape, std::vector<int64_t>{3});
  EXPECT_EQ(std::to_integer<char>(b.bytes[0]), 'b');
}

class CheckpointTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void WriteIndex(const Json& weight_map) {
    WriteFile(Path("model.safetensors.index.json"), Json{{"weight_map", weight_map}}.dump());
  }
  void WriteShard(const std::string& name, const std::string& tensor) {
    WriteFile(Path(name), SafetensorsBytes({{tensor, "F32", {2}, std::string(8, 'x')}}));
  }
  void ExpectOpenFails(absl::StatusCode code, const char* message) {
    const auto checkpoint = Checkpoint::Open(folder_.path());
    EXPECT_EQ(checkpoint.status().code(), code);
    EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(message));
  }

  TempFolder folder_;
};

TEST_F(CheckpointTest, SaysWhichFilesAModelFolderNeeds) {
  ExpectOpenFails(absl::StatusCode::kNotFound,
                  "neither model.safetensors nor model.safetensors.index.json");
}

TEST_F(CheckpointTest, RefusesAnEmptyFileAndAFolder) {
  WriteFile(Path("model.safetensors"), "");
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "the file is empty");
  EXPECT_EQ(Checkpoint::OpenFile(folder_.path()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Checkpoint::OpenFile(Path("absent")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CheckpointTest, JoinsShards) {
  WriteShard("1.safetensors", "a");
  WriteShard("2.safetensors", "b");
  WriteIndex({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  const auto checkpoint = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE((*checkpoint)->Has("a"));
  EXPECT_TRUE((*checkpoint)->Has("b"));
  EXPECT_EQ((*checkpoint)->bytes(), 16);
}

TEST_F(CheckpointTest, NamesMissingShards) {
  WriteShard("1.safetensors", "a");
  WriteIndex({{"a", "1.safetensors"}, {"b", "2.safetensors"}, {"c", "3.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kNotFound, "missing: 2.safetensors, 3.safetensors");
}

TEST_F(CheckpointTest, RefusesShardsOutsideTheFolder) {
  for (const char* shard : {"../1.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\b"}) {
    SCOPED_TRACE(shard);
    WriteIndex({{"a", shard}});
    ExpectOpenFails(absl::StatusCode::kInvalidArgument, "field 'weight_map.a': \"");
  }
  WriteIndex({{"a", std::string("1.safetensors\0x", 15)}});
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "is not the name of a file");
  WriteIndex({{"a", 5}});
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "field 'weight_map.a': 5");
}

TEST_F(CheckpointTest, RefusesAnIndexThatDoesNotMatchItsShards) {
  WriteShard("1.safetensors", "a");
  WriteIndex({{"a", "1.safetensors"}, {"b", "1.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kInvalidArgument,
                  "tensor 'b' is in none of the files; the index says \"1.safetensors\"");
  WriteShard("2.safetensors", "a");
  WriteIndex({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  ExpectOpenFails(absl::StatusCode::kInvalidArgument, "tensor 'a': another file");
  for (const char* index : {"[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", "{"}) {
    WriteFile(Path("model.safetensors.index.json"), index);
    ExpectOpenFails(absl::StatusCode::kInvalidArgument, "model.safetensors.index.json");
  }
}

TEST_F(CheckpointTest, SaysWhichTensorWhatWasExpectedAndWhatFound) {
  WriteFile(Path("model.safetensors"), SafetensorsBytes({{"w", "F32", {2, 3}, std::string(24, 'x')},
                                                         {"i", "I64", {1}, std::string(8, 'x')}}));
  const auto checkpoint = Checkpoint::Open(folder_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto get = [&](const char* name, std::vector<int64_t> shape) {
    return (*checkpoint)->Get(name, shape);
  };
  EXPECT_TRUE(get("w", {2, 3}).ok());
  const absl::Status missing = get("v", {2, 3}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              HasSubstr("tensor 'v' is missing; expected shape [2, 3]"));
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{3, 2}, {2}, {6}, {}, {2, 3, 1}}) {
    const absl::Status wrong = get("w", shape).status();
    EXPECT_EQ(wrong.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(wrong.message()), HasSubstr("tensor 'w': expected shape ["));
    EXPECT_THAT(std::string(wrong.message()), HasSubstr("found [2, 3]"));
  }
  EXPECT_THAT(std::string(get("i", {1}).status().message()),
              HasSubstr("tensor 'i': expected dtype F32, F16 or BF16, found I64"));
}

}  // namespace
}  // namespace chorale
