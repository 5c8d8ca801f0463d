#include "services/single/local_backend.h"

#include <utility>
#include <vector>

#include "services/worker/calls/generate_call.h"

namespace chorale {

std::shared_ptr<const ModelTable> LocalBackend::models() const {
  std::vector<ModelEntry> models;
  for (ServedModelInfo& served : worker_.ServedModels()) {
    models.push_back({.served = std::move(served), .prefill_workers = 0, .decode_workers = 1});
  }
  return std::make_shared<const ModelTable>(std::move(models));
}

std::function<void()> LocalBackend::Start(GenerateRequest request, ChunkFn on_chunk,
                                          DoneFn on_done) {
  return StartGenerate(worker_, nullptr, std::move(request), {}, std::move(on_chunk),
                       std::move(on_done));
}

}  // namespace chorale
