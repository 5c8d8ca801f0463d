// chorale-decode: continues prompts, many sequences and adapters in one batch.
//
// K/V of a prompt that is not cached here is pulled from who has it, or written by the prefill worker
// that the request names; when the tail is short, or those fail, it is computed here.
#include <utility>

#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/convert.h"
#include "rpc/deadline.h"
#include "rpc/server_stream.h"
#include "rpc/status.h"
#include "services/worker/calls/generate_call.h"
#include "services/worker/worker_main.h"

namespace chorale {
namespace {

class DecodeService : public v1::Decode::CallbackService {
 public:
  DecodeService(Worker& worker, BlockFetcher& fetcher) : worker_(worker), fetcher_(fetcher) {}

  grpc::ServerWriteReactor<v1::GenerateChunk>* Generate(grpc::CallbackServerContext* context,
                                                        const v1::DecodeRequest* request) override {
    auto stream = ServerStream<v1::GenerateChunk>::Create();
    stream->SetContext(context);
    GenerateRequest generate = FromProto(*request);
    generate.deadline = DeadlineOf(*context);
    FetchSources sources = {.prefill_address = request->prefill_address()};
    if (generate.reuse_prefix) sources.holders = HoldersFromProto(request->holders());
    std::function<void()> cancel = StartGenerate(
        worker_, &fetcher_, std::move(generate), std::move(sources),
        [stream](CompletionChunk chunk) { stream->PushOrAbort(ToProto(std::move(chunk))); },
        [stream](absl::Status status) { stream->End(ToGrpc(status)); });
    stream->OnCancelled(std::move(cancel));
    return stream.get();
  }

 private:
  Worker& worker_;
  BlockFetcher& fetcher_;
};

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  const WorkerProcessOptions options = ParseWorkerFlags(
      argc, argv, v1::ROLE_DECODE, "chorale-decode: continues prompts, many models in one batch");
  Worker worker(options.worker);
  WorkerBlocks blocks(options.blocks, worker, options.worker_id);
  DecodeService service(worker, blocks.fetcher());
  return RunWorkerProcess(options, v1::ROLE_DECODE, worker, blocks, service);
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
