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
foreach(part IN ITEMS Copies Interruptions Failures)
  string(TOLOWER ${part} name)
  add_program_test(courier.${name} courier_test.py TIMEOUT 300 LABEL samples
    ARGUMENTS $<TARGET_FILE:courier> ${part})
endforeach()
