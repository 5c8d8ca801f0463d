#include "tests/testing/tiny_family.h"

#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "model/checkpoint/random_checkpoint.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr char kCatalog[] = R"(version: 1
base: base
modules:
  - {name: x, weights: x}
  - {name: a, adapter: a}
  - {name: r, adapter: r}
  - {name: s, adapter: s}
  - {name: base-int8, quantize: int8}
models:
  - {name: base}
  - {name: standard-x, module: x}
  - {name: standard-a, module: a}
  - {name: share-x, mode: prefillshare, module: x}
  - {name: share-a, mode: prefillshare, module: a}
  - {name: sun-x, mode: sun, module: x}
  - {name: sun-a, mode: sun, module: a}
  - {name: sun-int8, mode: sun, module: a, decoder: base-int8}
  - {name: icarus-r, mode: icarus, module: r}
  - {name: icarus-s, mode: icarus, module: s}
)";

void Must(const absl::Status& status) { CHECK(status.ok()) << status.message(); }

}  // namespace

void WriteTinyFamily(const std::string& folder) {
  const auto in = [&](const char* name) {
    const std::string path = folder + "/" + name;
    std::filesystem::create_directory(path);
    return path;
  };
  WriteTinyModel(in("base"));
  Must(WriteRandomCheckpoint(in("x"), TinyConfig(), kernels::DType::kF32, /*seed=*/2));
  Must(WriteRandomCheckpoint(in("y"), TinyConfig(), kernels::DType::kF32, /*seed=*/3));
  Must(WriteRandomAdapter(in("a"), TinyConfig(), 4, 8, /*seed=*/4));
  Must(WriteRandomAdapter(in("b"), TinyConfig(), 2, 8, /*seed=*/5));
  Must(WriteRandomAdapter(in("r"), TinyConfig(), 4, 8, /*seed=*/6, AdapterTargets::kReader));
  Must(WriteRandomAdapter(in("s"), TinyConfig(), 3, 8, /*seed=*/7, AdapterTargets::kReader));
  std::ofstream catalog(folder + "/chorale.yaml");
  catalog << kCatalog << std::flush;
  CHECK(catalog.good()) << folder;
}

std::vector<std::string> TinyFamilyModels() {
  return {"base",  "standard-x", "standard-a", "share-x",  "share-a",
          "sun-x", "sun-a",      "sun-int8",   "icarus-r", "icarus-s"};
}

}  // namespace chorale
