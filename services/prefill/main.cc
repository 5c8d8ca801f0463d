// chorale-prefill: writes the K/V of prompts and hands it to decode workers.
#include <grpcpp/impl/codegen/proto_utils.h>

#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/deadline.h"
#include "services/prefill/prefill_call.h"
#include "services/worker/worker_main.h"

namespace chorale {
namespace {

// Prefill.Run over raw bytes: the frames are encoded by rpc/kv_frame.
class PrefillService : public v1::Prefill::WithRawCallbackMethod_Run<v1::Prefill::Service> {
 public:
  explicit PrefillService(Worker& worker) : worker_(worker) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Run(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* bytes) override {
    auto stream = FrameStream::Create();
    grpc::ByteBuffer copy(*bytes);  // shares the bytes; Deserialize consumes its argument
    v1::PrefillRequest request;
    if (grpc::Status status =
            grpc::SerializationTraits<v1::PrefillRequest>::Deserialize(&copy, &request);
        !status.ok()) {
      stream->End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                               "the request is not a chorale.v1.PrefillRequest"));
    } else {
      StartPrefill(worker_, request, DeadlineOf(*context), stream);
    }
    return stream.get();
  }

 private:
  Worker& worker_;
};

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  WorkerProcessOptions options = ParseWorkerFlags(
      argc, argv, "chorale-prefill: writes the K/V of prompts and hands it to decode workers");
  options.worker.prompt_writers_only = true;
  Worker worker(options.worker);
  PrefillService service(worker);
  return RunWorkerProcess(options, v1::ROLE_PREFILL, worker, {&service});
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
