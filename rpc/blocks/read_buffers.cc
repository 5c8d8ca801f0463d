#include "rpc/blocks/read_buffers.h"

#include <mutex>

#include <malloc.h>

namespace chorale {

void KeepReadBuffers() {
#if defined(__GLIBC__)
  static std::once_flag once;
  std::call_once(once, [] {
    mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the largest there is
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
  });
#endif
}

}  // namespace chorale
