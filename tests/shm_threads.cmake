# SPDX-License-Identifier: Apache-2.0
# The sample of threads over shared memory: both programs, and the sum.
add_test(NAME shm_threads
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/shm_threads_test.py
    $<TARGET_FILE:shm_threads>)
set_tests_properties(shm_threads PROPERTIES
  ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT}"
  LABELS samples
  TIMEOUT 120)
