// chorale-prefill: writes the K/V of prompts and hands it to decode workers.
#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/deadline.h"
#include "services/worker/calls/prefill_call.h"
#include "services/worker/worker_main.h"

namespace chorale {
namespace {

// Prefill.Run over raw bytes: the frames are encoded by rpc/kv_frame.
class PrefillService : public v1::Prefill::WithRawCallbackMethod_Run<v1::Prefill::Service> {
 public:
  PrefillService(Worker& worker, BlockFetcher& fetcher) : worker_(worker), fetcher_(fetcher) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Run(
      grpc::CallbackServerContext* context) override {
    auto stream = BlockStream::Create();
    stream->SetContext(context);
    StartPrefillCall(worker_, fetcher_, DeadlineOf(*context), stream);
    return stream.get();
  }

 private:
  Worker& worker_;
  BlockFetcher& fetcher_;
};

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  WorkerProcessOptions options =
      ParseWorkerFlags(argc, argv, v1::ROLE_PREFILL,
                       "chorale-prefill: writes the K/V of prompts and hands it to decode workers");
  options.worker.prompt_writers_only = true;
  Worker worker(options.worker);
  WorkerBlocks blocks(options.blocks, worker, options.worker_id);
  PrefillService service(worker, blocks.fetcher());
  return RunWorkerProcess(options, v1::ROLE_PREFILL, worker, blocks, service);
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
