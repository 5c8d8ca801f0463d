// LocalBackend: generations by the engine of this process.
#pragma once

#include <memory>

#include "services/gateway/backend.h"
#include "services/worker/worker.h"

namespace chorale {

class LocalBackend : public Backend {
 public:
  // `worker` must outlive the backend.
  explicit LocalBackend(Worker& worker) : worker_(worker) {}

  std::shared_ptr<const ModelTable> models() const override;
  std::function<void()> Start(GenerateRequest request, ChunkFn on_chunk, DoneFn on_done) override;

 private:
  Worker& worker_;
};

}  // namespace chorale
