# Compiler settings and the functions by which every folder declares its targets.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
include(GNUInstallDirs)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

add_library(chorale_settings INTERFACE)
target_include_directories(chorale_settings INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/chorale>)
target_compile_features(chorale_settings INTERFACE cxx_std_20)
# -Wno-maybe-uninitialized: g++ 12 sees it in absl::StatusOr<std::string>, where it is not.
target_compile_options(chorale_settings INTERFACE "$<BUILD_INTERFACE:-Wall;-Wextra>"
  "$<BUILD_INTERFACE:-Wno-missing-field-initializers;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>>")
install(TARGETS chorale_settings EXPORT chorale-targets)
if(CHORALE_SANITIZE)
  target_compile_options(chorale_settings INTERFACE
    -fsanitize=${CHORALE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(chorale_settings INTERFACE -fsanitize=${CHORALE_SANITIZE})
endif()

# chorale_library(name SOURCES a.cc ... DEPS targets ...): installed, with its headers
function(chorale_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC chorale_settings ${ARG_DEPS})
  if(NOT CMAKE_CURRENT_SOURCE_DIR MATCHES "^${PROJECT_SOURCE_DIR}/tests")
    install(TARGETS ${name} EXPORT chorale-targets
            ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/chorale)
  endif()
endfunction()

# chorale_binary(name SOURCES a.cc ... DEPS targets ...): an installed program
function(chorale_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE chorale_settings ${ARG_DEPS})
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# chorale_test(name SOURCES a.cc ... DEPS targets ... [LABELS unit|e2e] [TIMEOUT seconds])
# Every test runs at the top of the source tree's tests/ with CHORALE_SHARED_DATA naming the
# optional data folder; a test that needs it skips with a clear word when it is absent.
function(chorale_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE chorale_settings ${ARG_DEPS} GTest::gtest GTest::gmock
                        GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}/tests)
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "CHORALE_SHARED_DATA=${PROJECT_SOURCE_DIR}/../shared/data")
endfunction()
