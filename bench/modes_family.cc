#include "bench/modes_family.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include <grpcpp/client_context.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "bench/engine_bench.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "model/random_checkpoint.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "rpc/status.h"

namespace chorale::bench {
namespace {

constexpr int kRank = 16;
constexpr double kAlpha = 32;

absl::Status MakeFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(folder, ": ", error.message()));
}

// Rank 16, on every linear layer of `targets`.
absl::Status WriteAdapter(const std::string& folder, int index, AdapterTargets targets) {
  RETURN_IF_ERROR(MakeFolder(folder));
  return WriteRandomAdapter(folder, Shape125M(), kRank, kAlpha, 100 + index, targets);
}

}  // namespace

absl::Status WriteBase(const std::string& folder) {
  RETURN_IF_ERROR(MakeFolder(folder));
  return WriteRandomCheckpoint(folder, Shape125M(), kernels::DType::kBF16, 1);
}

absl::Status WriteFamily(const std::string& folder, int models) {
  RETURN_IF_ERROR(WriteBase(folder + "/base"));
  std::string modules = "  - {name: base-int4, quantize: int4}\n";
  std::string names;
  for (int i = 0; i < models; ++i) {
    const std::string task = absl::StrCat("task", i);
    RETURN_IF_ERROR(WriteAdapter(folder + "/" + task, i, AdapterTargets::kAll));
    absl::StrAppend(&modules, "  - {name: ", task, ", adapter: ", task, "}\n");
    absl::StrAppend(&names, "  - {name: m", i, ", mode: sun, module: ", task, "}\n");
    absl::StrAppend(&names, "  - {name: q", i, ", mode: sun, module: ", task,
                    ", decoder: base-int4}\n");
  }
  std::ofstream file(folder + "/chorale.yaml");
  file << "version: 1\nbase: base\nmodules:\n" << modules << "models:\n" << names << std::flush;
  return file ? absl::OkStatus() : absl::UnavailableError(folder + "/chorale.yaml: cannot write");
}

absl::StatusOr<Models> LoadModes(const std::string& folder, const ModelLoader& loader,
                                 kernels::ThreadPool& pool) {
  std::vector<ModelSpec> specs;
  for (int i = 0; i < kAdapters; ++i) {
    const ModuleSpec plain{.name = "a", .adapter = absl::StrCat(folder, "/a", i)};
    const ModuleSpec reader{.name = "i", .adapter = absl::StrCat(folder, "/i", i)};
    RETURN_IF_ERROR(WriteAdapter(plain.adapter, i, AdapterTargets::kAll));
    RETURN_IF_ERROR(WriteAdapter(reader.adapter, i, AdapterTargets::kReader));
    specs.push_back({.name = absl::StrCat("a", i), .mode = Mode::kStandard, .module = plain});
    specs.push_back({.name = absl::StrCat("i", i), .mode = Mode::kIcarus, .module = reader});
  }
  const ModuleSpec task{.name = "task", .adapter = folder + "/a0"};
  const ModuleSpec int8{.name = "int8", .quantization = kernels::DType::kI8};
  const ModuleSpec int4{.name = "int4", .quantization = kernels::DType::kI4};
  specs.push_back({.name = "sun16", .mode = Mode::kSun, .module = task});
  specs.push_back({.name = "sun8", .mode = Mode::kSun, .module = task, .decoder = int8});
  specs.push_back({.name = "sun4", .mode = Mode::kSun, .module = task, .decoder = int4});
  return loader.Load(specs, pool);
}

absl::Status PrintWorkerCounters(const std::string& address) {
  const auto stub = v1::WorkerControl::NewStub(OpenChannel(address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + absl::Seconds(10));
  v1::WorkerStatusResponse status;
  RETURN_IF_ERROR(FromGrpc(stub->Status(&context, {}, &status)));
  Json counters = Json::object();
  for (const auto& [name, value] : status.engine()) counters[name] = value;
  absl::PrintF("%s\n", DumpJson(counters));
  return absl::OkStatus();
}

}  // namespace chorale::bench
