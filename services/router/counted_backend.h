// CountedBackend: passes calls on to another backend and counts them, for the metrics.
#pragma once

#include <memory>

#include "services/common/metrics.h"
#include "services/gateway/backend.h"

namespace chorale {

// Thread safe. Calls under way may outlive it.
class CountedBackend : public Backend {
 public:
  // `backend` outlives it.
  explicit CountedBackend(Backend& backend);

  std::shared_ptr<const ModelTable> models() const override { return backend_.models(); }
  std::function<void()> Start(GenerateRequest request, ChunkFn on_chunk, DoneFn on_done) override;

  // chorale_requests...
  void Describe(MetricSet& metrics) const;

 private:
  struct Counts;

  Backend& backend_;
  const std::shared_ptr<Counts> counts_;
};

}  // namespace chorale
