// Every kernel table of this machine as a parameter of tests.
#pragma once

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/kernels.h"

namespace chorale {

inline std::vector<std::string> KernelTableNames() {
  std::vector<std::string> names;
  for (const kernels::Kernels* table : kernels::AvailableKernels()) names.emplace_back(table->name);
  return names;
}

// "cpu-avx2" as the name of a test may hold it.
inline std::string TestNameOf(std::string table) {
  std::replace(table.begin(), table.end(), '-', '_');
  return table;
}
inline std::string NameOfTable(const testing::TestParamInfo<std::string>& info) {
  return TestNameOf(info.param);
}

// A table and a number of threads.
using TableAndThreads = std::tuple<const kernels::Kernels*, int>;

inline auto TablesAndThreads() {
  return testing::Combine(testing::ValuesIn(kernels::AvailableKernels()), testing::Values(1, 3));
}
inline std::string NameOfTableAndThreads(const testing::TestParamInfo<TableAndThreads>& info) {
  return TestNameOf(std::string(std::get<0>(info.param)->name)) + "_" +
         std::to_string(std::get<1>(info.param)) + "_threads";
}

}  // namespace chorale
