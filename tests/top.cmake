# SPDX-License-Identifier: Apache-2.0
# top: its table in hawser_tests, the program itself from outside, on both backends.
target_sources(hawser_tests PRIVATE top_table_test.cpp)
target_link_libraries(hawser_tests PRIVATE top_table stats_service)
add_suite(top_table LABELS samples)

add_program_test(top top_test.py TIMEOUT 120 LABEL samples
  ARGUMENTS $<TARGET_FILE:top> $<TARGET_FILE:watched_echo> $<TARGET_FILE:courier>)

# What the tuning guide measures, so that it cannot rot.
set(symptoms_timeout 120)
stretch_timeout(symptoms_timeout)
add_test(NAME symptoms COMMAND symptoms all --seconds 0.05)
set_tests_properties(symptoms PROPERTIES
  ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT}"
  LABELS samples
  TIMEOUT ${symptoms_timeout})
