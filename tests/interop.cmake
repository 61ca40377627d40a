# SPDX-License-Identifier: Apache-2.0
# A client in Python, written from src/wire/README.md alone, and a server to talk to.
find_package(Python3 REQUIRED COMPONENTS Interpreter)

add_executable(echo_server interop/echo_server.cpp)
target_link_libraries(echo_server PRIVATE hawser::hawser hawser_warnings)
set_target_properties(echo_server PROPERTIES CXX_EXTENSIONS OFF)

set(interop_timeout 120)
if(HAWSER_SANITIZE OR HAWSER_COVERAGE)
  set(interop_timeout 600)
endif()
foreach(backend IN ITEMS io_uring asio)
  add_test(NAME interop.${backend}
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/interop/interop_test.py
      $<TARGET_FILE:echo_server>)
  set_tests_properties(interop.${backend} PROPERTIES
    ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT};HAWSER_TEST_BACKEND=${backend}"
    LABELS "suite;${backend}"
    SKIP_RETURN_CODE 77
    TIMEOUT ${interop_timeout})
endforeach()
