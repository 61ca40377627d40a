# SPDX-License-Identifier: Apache-2.0
# A client in Python, written from src/wire/README.md alone, and a server to talk to.
find_package(Python3 REQUIRED COMPONENTS Interpreter)

add_executable(echo_server interop/echo_server.cpp)
target_link_libraries(echo_server PRIVATE hawser::hawser hawser_warnings)
set_target_properties(echo_server PROPERTIES CXX_EXTENSIONS OFF)

add_program_test(interop interop/interop_test.py TIMEOUT 120 LABEL suite
  ARGUMENTS $<TARGET_FILE:echo_server>)
