#include "services/kvstore/push_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "rpc/blocks/kv_frame.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// Of one call; a chain longer than any prompt.
constexpr int64_t kBlocksMax = 1 << 20;

// Deletes itself when gRPC is done with it, which is not before Finish.
class PushCall : public grpc::ServerReadReactor<grpc::ByteBuffer> {
 public:
  PushCall(BlockStore& store, WorkPool& pool, grpc::ByteBuffer* reply)
      : store_(store),
        pool_(pool),
        reply_(*reply),
        assembler_(store.block_bytes_max(), kBlocksMax) {
    StartRead(&frame_);
  }

 private:
  void OnReadDone(bool ok) override {
    const bool posted = pool_.Post([this, ok] {
      if (!ok) return End(absl::OkStatus());
      if (absl::Status status = Take(); !status.ok()) return End(status);
      StartRead(&frame_);
    });
    if (!posted) End(absl::ResourceExhaustedError("the store has too many calls; send less"));
  }

  absl::Status Take() {
    ASSIGN_OR_RETURN(const DecodedKvFrame frame, DecodeKvFrame(frame_));
    if (frame.header.has_format()) {
      format_text_ = TextOfFormat(frame.header.format());
      format_ = 0;
    }
    if (!format_text_) {
      return absl::InvalidArgumentError("field 'format': missing from the call's first frame");
    }
    ASSIGN_OR_RETURN(std::vector<BlockAssembler::Block> blocks, assembler_.Add(frame));
    for (const BlockAssembler::Block& block : blocks) RETURN_IF_ERROR(Store(block));
    return absl::OkStatus();
  }

  absl::Status Store(const BlockAssembler::Block& block) {
    // The first block makes a format known, not a caller who only names one.
    if (format_ == 0) {
      ASSIGN_OR_RETURN(format_, store_.formats().NumberOf(*format_text_));
    }
    const BlockMeta meta = {.bytes = static_cast<int64_t>(block.bytes.size()),
                            .checksum = block.end.checksum,
                            .format = format_,
                            .index = block.index};
    switch (store_.Put(block.end.key, meta, block.bytes)) {
      case BlockStore::PutResult::kTaken:
        ++taken_;
        break;
      case BlockStore::PutResult::kPresent:
        ++present_;
        break;
      case BlockStore::PutResult::kCorrupt:
        ++rejected_;
        return absl::OkStatus();
      case BlockStore::PutResult::kNoRoom:
        return absl::ResourceExhaustedError("all blocks in the store's memory are held");
    }
    chain_.push_back(block.end.key);
    return absl::OkStatus();
  }

  void End(const absl::Status& status) {
    store_.Freshen(chain_);
    v1::PushReply reply;
    reply.set_blocks_taken(taken_);
    reply.set_blocks_present(present_);
    reply.set_blocks_rejected(rejected_);
    reply_ = SerializeMessage(reply);
    Finish(ToGrpc(status));
  }

  void OnDone() override { delete this; }

  BlockStore& store_;
  WorkPool& pool_;
  grpc::ByteBuffer& reply_;
  BlockAssembler assembler_;
  grpc::ByteBuffer frame_;
  std::optional<std::string> format_text_;
  uint32_t format_ = 0;  // its number, from the first block on
  std::vector<BlockKey> chain_;
  int taken_ = 0;
  int present_ = 0;
  int rejected_ = 0;
};

}  // namespace

grpc::ServerReadReactor<grpc::ByteBuffer>* StartPushCall(BlockStore& store, WorkPool& pool,
                                                         grpc::ByteBuffer* reply) {
  return new PushCall(store, pool, reply);
}

std::string TextOfFormat(const v1::KvFormat& format) {
  v1::KvFormat known;  // field by field: what is not known here makes no difference
  known.set_layout(format.layout());
  known.set_block_tokens(format.block_tokens());
  known.set_layers(format.layers());
  known.set_kv_heads(format.kv_heads());
  known.set_head_dim(format.head_dim());
  known.set_dtype(format.dtype());
  known.set_encoding(format.encoding());
  return known.SerializeAsString();
}

}  // namespace chorale
