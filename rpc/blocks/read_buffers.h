// Memory that gRPC reads into: a few megabytes, allocated and freed with every few reads.
#pragma once

namespace chorale {

// Lets the C library keep freed memory of that size instead of giving it back to the kernel, which
// would map and clear it anew for each read: a quarter of what moving a block costs
// (bench/transfer.cc). For the whole process, which then keeps up to 256 MiB that it does not use.
// Called by whoever opens a channel or a server; only the first call acts. Thread safe.
void KeepReadBuffers();

}  // namespace chorale
