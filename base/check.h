// CHECK: a test of our own assumptions that stays on in release builds.
//
// A failed CHECK is a bug in Chorale, never the fault of a caller or a peer; those get an
// absl::Status. It prints the place, the condition and the message, and aborts the process.
#pragma once

#include <sstream>

namespace chorale {

// Collects the message of a failed CHECK and aborts at the end of the statement.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Lets CHECK be one expression of type void, so that it nests in if/else without braces.
struct CheckVoidify {
  void operator&(std::ostream&) const {}
};

}  // namespace chorale

#define CHECK(condition)             \
  __builtin_expect(!!(condition), 1) \
      ? (void)0                      \
      : ::chorale::CheckVoidify() &  \
            ::chorale::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define CHECK_OP_(a, op, b) CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) CHECK_OP_(a, ==, b)
#define CHECK_LT(a, b) CHECK_OP_(a, <, b)
#define CHECK_LE(a, b) CHECK_OP_(a, <=, b)
#define CHECK_GT(a, b) CHECK_OP_(a, >, b)
#define CHECK_GE(a, b) CHECK_OP_(a, >=, b)
