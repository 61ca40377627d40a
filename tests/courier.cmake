# SPDX-License-Identifier: Apache-2.0
# The courier: its disk half in hawser_tests, the program itself from outside, on both backends.
target_sources(hawser_tests PRIVATE
  courier_disk_test.cpp
  courier_paths_test.cpp
)
target_link_libraries(hawser_tests PRIVATE courier_disk)
add_suite(courier_disk LABELS samples)
add_suite(courier_paths LABELS samples)

find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(courier_timeout 300)
if(HAWSER_SANITIZE)
  set(courier_timeout 1200)
endif()
foreach(backend IN ITEMS io_uring asio)
  foreach(part IN ITEMS Copies Interruptions Failures)
    string(TOLOWER ${part} name)
    add_test(NAME courier.${name}.${backend}
      COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/courier_test.py
        $<TARGET_FILE:courier> ${part})
    set_tests_properties(courier.${name}.${backend} PROPERTIES
      ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT};HAWSER_TEST_BACKEND=${backend}"
      LABELS "samples;${backend}"
      SKIP_RETURN_CODE 77
      TIMEOUT ${courier_timeout})
  endforeach()
endforeach()
