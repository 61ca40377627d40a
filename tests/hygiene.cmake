# SPDX-License-Identifier: Apache-2.0
# Every public header compiles alone, and twice in one file, as a user would compile it: without
# our private folders, with our warnings. A header that does not is a build error of hawser_headers.
get_target_property(public_headers hawser HEADER_SET)
set(header_sources "")
foreach(header IN LISTS public_headers)
  cmake_path(RELATIVE_PATH header BASE_DIRECTORY ${PROJECT_SOURCE_DIR}/include)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/headers/${header}.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "#include <@header@>\n#include <@header@>\n" @ONLY)
  list(APPEND header_sources ${source})
endforeach()

add_library(hawser_headers OBJECT ${header_sources})
target_link_libraries(hawser_headers PRIVATE hawser::hawser hawser_asio hawser_warnings)
set_target_properties(hawser_headers PROPERTIES CXX_EXTENSIONS OFF)
# Only the diagnostics matter.
target_compile_options(hawser_headers PRIVATE -O0 -g0)
