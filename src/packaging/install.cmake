# SPDX-License-Identifier: Apache-2.0
# Install rules: library, headers, hawserConfig.cmake for find_package, hawser.pc for pkg-config.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(hawser_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/hawser)

# A static archive records nothing of what it needs, so its users must be told; a shared one does.
get_target_property(hawser_type hawser TYPE)
set(HAWSER_PC_REQUIRES "")
if(hawser_type STREQUAL "STATIC_LIBRARY")
  set(HAWSER_PC_REQUIRES "${HAWSER_PC_REQUIRES_PRIVATE}")
  set(HAWSER_PC_REQUIRES_PRIVATE "")
endif()
set(HAWSER_PC_CFLAGS "-pthread")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  string(APPEND HAWSER_PC_CFLAGS " -foptimize-sibling-calls")
endif()
# hawser.pc finds its prefix from where it lies, so that an installed tree may be moved.
file(RELATIVE_PATH HAWSER_PC_PREFIX
  ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})

configure_file(${CMAKE_CURRENT_LIST_DIR}/hawser.pc.in ${PROJECT_BINARY_DIR}/hawser.pc @ONLY)
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/hawserConfig.cmake.in ${PROJECT_BINARY_DIR}/hawserConfig.cmake
  INSTALL_DESTINATION ${hawser_config_dir} NO_SET_AND_CHECK_MACRO)
# Until 1.0 a new minor version may change the API.
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/hawserConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS hawser EXPORT hawserTargets FILE_SET HEADERS)
install(EXPORT hawserTargets NAMESPACE hawser:: DESTINATION ${hawser_config_dir})
install(FILES
  ${PROJECT_BINARY_DIR}/hawserConfig.cmake ${PROJECT_BINARY_DIR}/hawserConfigVersion.cmake
  DESTINATION ${hawser_config_dir})
install(FILES ${PROJECT_BINARY_DIR}/hawser.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/hawser)
