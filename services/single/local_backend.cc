#include "services/single/local_backend.h"

#include <utility>

#include "services/worker/calls/generate_call.h"

namespace chorale {

std::vector<BackendModel> LocalBackend::Models() const {
  std::vector<BackendModel> models;
  for (v1::ServedModel& served : worker_.ServedModels()) {
    models.push_back({.served = std::move(served), .prefill_workers = 0, .decode_workers = 1});
  }
  return models;
}

std::function<void()> LocalBackend::Start(v1::DecodeRequest request, absl::Time deadline,
                                          ChunkFn on_chunk, DoneFn on_done) {
  return StartGenerate(worker_, nullptr, std::move(request), deadline, std::move(on_chunk),
                       std::move(on_done));
}

}  // namespace chorale
