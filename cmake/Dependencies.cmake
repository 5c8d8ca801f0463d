# Every library comes from the distribution; docs/ARCHITECTURE.md says why each was chosen.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)          # module mode: Debian 12 ships no config file
find_package(gRPC CONFIG REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(Boost REQUIRED)             # headers only: Asio and Beast
find_package(CLI11 CONFIG REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(YAML_CPP REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(HIREDIS REQUIRED IMPORTED_TARGET hiredis)
find_package(civetweb CONFIG REQUIRED)                       # serves /metrics
find_package(prometheus-cpp CONFIG REQUIRED COMPONENTS core)  # writes its text
if(CHORALE_BUILD_BENCH)
  find_package(RocksDB CONFIG QUIET)     # what the store's disk tier is measured against
endif()

if(CHORALE_BUILD_TESTS)
  find_package(GTest CONFIG REQUIRED)
endif()
