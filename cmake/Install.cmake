# What `cmake --install` puts where: programs, libraries with their headers as the CMake package
# `chorale`, the protocol, and the model that the programs start with.
include(CMakePackageConfigHelpers)

set(CHORALE_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/chorale)
install(EXPORT chorale-targets NAMESPACE chorale:: DESTINATION ${CHORALE_PACKAGE_DIR})
configure_package_config_file(cmake/choraleConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/choraleConfig.cmake INSTALL_DESTINATION ${CHORALE_PACKAGE_DIR})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/choraleConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/choraleConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/choraleConfigVersion.cmake cmake/Dependencies.cmake
        DESTINATION ${CHORALE_PACKAGE_DIR})

foreach(layer base kernels text model cache engine orchestrator process rpc net api services)
  install(DIRECTORY ${layer} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/chorale
          FILES_MATCHING PATTERN "*.h")
endforeach()
install(DIRECTORY proto/chorale DESTINATION ${CMAKE_INSTALL_DATADIR}/chorale/proto
        FILES_MATCHING PATTERN "*.proto")
install(DIRECTORY models/base models/family DESTINATION ${CMAKE_INSTALL_DATADIR}/chorale/models)
