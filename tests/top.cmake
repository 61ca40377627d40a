# SPDX-License-Identifier: Apache-2.0
# top: its table in hawser_tests, the program itself from outside, on both backends.
target_sources(hawser_tests PRIVATE top_table_test.cpp)
target_link_libraries(hawser_tests PRIVATE top_table stats_service)
add_suite(top_table LABELS samples)

set(top_timeout 120)
if(HAWSER_SANITIZE OR HAWSER_COVERAGE)
  set(top_timeout 600)
endif()
foreach(backend IN ITEMS io_uring asio)
  add_test(NAME top.${backend}
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/top_test.py
      $<TARGET_FILE:top> $<TARGET_FILE:watched_echo> $<TARGET_FILE:courier>)
  set_tests_properties(top.${backend} PROPERTIES
    ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT};HAWSER_TEST_BACKEND=${backend}"
    LABELS "samples;${backend}"
    SKIP_RETURN_CODE 77
    TIMEOUT ${top_timeout})
endforeach()

# What the tuning guide measures, so that it cannot rot.
add_test(NAME symptoms COMMAND symptoms all --seconds 0.05)
set_tests_properties(symptoms PROPERTIES
  ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT}"
  LABELS samples
  TIMEOUT ${top_timeout})
