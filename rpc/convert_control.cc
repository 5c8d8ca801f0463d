#include "rpc/convert_control.h"

#include <string>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "rpc/convert.h"

namespace chorale {

absl::StatusOr<WorkerInfo> FromProto(const v1::WorkerReport& report) {
  WorkerInfo worker{.id = report.worker_id(),
                    .address = report.address(),
                    .ready = report.ready(),
                    .draining = report.draining(),
                    .load_progress = report.load_progress(),
                    .requests_running = report.requests_running(),
                    .requests_waiting = report.requests_waiting(),
                    .blocks_total = report.blocks_total(),
                    .blocks_free = report.blocks_free(),
                    .pid = report.pid()};
  switch (report.role()) {
    case v1::ROLE_PREFILL:
      worker.role = WorkerRole::kPrefill;
      break;
    case v1::ROLE_DECODE:
      worker.role = WorkerRole::kDecode;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrFormat("worker '%s': role %d is not known", worker.id, report.role()));
  }
  for (const v1::ServedModel& proto : report.models()) {
    ServedModelInfo model{.name = proto.name(),
                          .mode = proto.mode(),
                          .folder = proto.folder(),
                          .context_tokens = proto.context_tokens(),
                          .context_reason = proto.context_reason(),
                          .attention = proto.attention(),
                          .short_context_tokens = proto.short_context_tokens(),
                          .text_folder = proto.text_folder(),
                          .defaults = DefaultsFromProto(proto.defaults()),
                          .notes = {proto.notes().begin(), proto.notes().end()},
                          .vocab = proto.vocab(),
                          .block_bytes = proto.block_bytes()};
    ASSIGN_OR_RETURN(model.prompt_writer, Digest::FromBytes(proto.prompt_writer()));
    ASSIGN_OR_RETURN(model.digest, Digest::FromBytes(proto.digest()));
    ASSIGN_OR_RETURN(model.text_digest, Digest::FromBytes(proto.text_digest()));
    worker.models.push_back(std::move(model));
  }
  return worker;
}

v1::WorkerReport ToProto(const WorkerInfo& worker) {
  v1::WorkerReport report;
  report.set_worker_id(worker.id);
  report.set_address(worker.address);
  report.set_role(worker.role == WorkerRole::kPrefill ? v1::ROLE_PREFILL : v1::ROLE_DECODE);
  report.set_ready(worker.ready);
  report.set_draining(worker.draining);
  report.set_load_progress(worker.load_progress);
  report.set_requests_running(worker.requests_running);
  report.set_requests_waiting(worker.requests_waiting);
  report.set_blocks_total(worker.blocks_total);
  report.set_blocks_free(worker.blocks_free);
  report.set_pid(worker.pid);
  for (const ServedModelInfo& model : worker.models) {
    v1::ServedModel* proto = report.add_models();
    proto->set_name(model.name);
    proto->set_mode(model.mode);
    proto->set_folder(model.folder);
    proto->set_prompt_writer(std::string(model.prompt_writer.AsBytes()));
    proto->set_digest(std::string(model.digest.AsBytes()));
    proto->set_context_tokens(model.context_tokens);
    proto->set_context_reason(model.context_reason);
    proto->set_attention(model.attention);
    proto->set_short_context_tokens(model.short_context_tokens);
    proto->set_text_folder(model.text_folder);
    proto->set_text_digest(std::string(model.text_digest.AsBytes()));
    *proto->mutable_defaults() = ToProto(model.defaults);
    proto->mutable_notes()->Assign(model.notes.begin(), model.notes.end());
    proto->set_vocab(model.vocab);
    proto->set_block_bytes(model.block_bytes);
  }
  return report;
}

}  // namespace chorale
