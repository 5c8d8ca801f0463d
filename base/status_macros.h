// Two macros for absl::Status: RETURN_IF_ERROR(expr) and ASSIGN_OR_RETURN(lhs, expr).
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expr)                                         \
  do {                                                                \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

#define CHORALE_CONCAT_INNER_(a, b) a##b
#define CHORALE_CONCAT_(a, b) CHORALE_CONCAT_INNER_(a, b)
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL_(CHORALE_CONCAT_(status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL_(temp, lhs, expr)    \
  auto temp = (expr);                              \
  if (!temp.ok()) return std::move(temp).status(); \
  lhs = std::move(temp).value()
