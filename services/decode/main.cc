// chorale-decode: continues prompts, many sequences and adapters in one batch.
//
// K/V of a prompt that is not cached here comes from the prefill worker that the request names, or,
// when the tail is short or that worker fails, is computed here.
#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "rpc/server_stream.h"
#include "rpc/status.h"
#include "services/worker/generate_call.h"
#include "services/worker/prefill_client.h"
#include "services/worker/worker_main.h"

namespace chorale {
namespace {

class DecodeService : public v1::Decode::CallbackService {
 public:
  DecodeService(Worker& worker, GenerateCallOptions options)
      : worker_(worker), options_(std::move(options)) {}

  grpc::ServerWriteReactor<v1::GenerateChunk>* Generate(grpc::CallbackServerContext* context,
                                                        const v1::DecodeRequest* request) override {
    auto stream = ServerStream<v1::GenerateChunk>::Create();
    std::function<void()> cancel = StartGenerate(
        worker_, options_, *request, DeadlineOf(*context),
        [stream](const v1::GenerateChunk& chunk) {
          stream->PushOrAbort(chunk, static_cast<int64_t>(chunk.ByteSizeLong()));
        },
        [stream](absl::Status status) { stream->End(ToGrpc(status)); });
    stream->OnCancelled(std::move(cancel));
    return stream.get();
  }

 private:
  Worker& worker_;
  const GenerateCallOptions options_;
};

int Main(int argc, char** argv) {
  BlockTerminationSignals();
  GenerateCallOptions call_options;
  WorkerProcessOptions options =
      ParseWorkerFlags(argc, argv, "chorale-decode: continues prompts, many models in one batch",
                       [&](CLI::App& app) {
                         app.add_option("--local-prefill-tokens", call_options.local_prefill_tokens,
                                        "uncached prompt tails up to this long are prefilled here")
                             ->capture_default_str()
                             ->check(CLI::Range(0, 1 << 20));
                       });
  Channels channels;
  call_options.fetch = MakePrefillClient(channels);
  Worker worker(options.worker);
  DecodeService service(worker, std::move(call_options));
  return RunWorkerProcess(options, v1::ROLE_DECODE, worker, {&service});
}

}  // namespace
}  // namespace chorale

int main(int argc, char** argv) { return chorale::Main(argc, argv); }
