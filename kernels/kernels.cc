#include "kernels/kernels.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/tables.h"

namespace chorale::kernels {

std::vector<const Kernels*> AvailableKernels() {
  std::vector<const Kernels*> all = {&ReferenceKernels()};
  for (const Kernels* cpu : CpuKernels()) all.push_back(cpu);
  return all;
}

absl::StatusOr<const Kernels*> FindKernels(std::string_view name) {
  const std::vector<const Kernels*> all = AvailableKernels();
  if (name == "cpu") return all.back();
  std::string names = "cpu";
  for (const Kernels* kernels : all) {
    if (kernels->name == name) return kernels;
    absl::StrAppend(&names, ", ", std::string(kernels->name));
  }
  return absl::NotFoundError(absl::StrCat("no kernels named \"", std::string(name),
                                          "\" on this machine; use one of: ", names));
}

}  // namespace chorale::kernels
