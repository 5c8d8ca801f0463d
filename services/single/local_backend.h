// LocalBackend: generations by the engine of this process.
#pragma once

#include "services/gateway/backend.h"
#include "services/worker/worker.h"

namespace chorale {

class LocalBackend : public Backend {
 public:
  // `worker` must outlive the backend.
  explicit LocalBackend(Worker& worker) : worker_(worker) {}

  std::vector<BackendModel> Models() const override;
  std::function<void()> Start(v1::DecodeRequest request, absl::Time deadline, ChunkFn on_chunk,
                              DoneFn on_done) override;

 private:
  Worker& worker_;
};

}  // namespace chorale
