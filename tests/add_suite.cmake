# SPDX-License-Identifier: Apache-2.0

# stretch_timeout(variable) allows for builds that are slow.
macro(stretch_timeout variable)
  if(HAWSER_SANITIZE OR HAWSER_COVERAGE)
    math(EXPR ${variable} "${${variable}} * 5")
  endif()
endmacro()

# add_suite(name [BACKENDS] [PROGRAM target] [TIMEOUT seconds] [LABELS label...])
#
# Registers the doctest suite `name` of hawser_tests, or of another program, as the test `name`, or with BACKENDS as
# `name.io_uring` and `name.asio`, which run it with HAWSER_TEST_BACKEND set to that backend.
# A suite without a test case fails; one that cannot run here exits with 77 and shows as skipped.
function(add_suite name)
  cmake_parse_arguments(PARSE_ARGV 1 suite "BACKENDS" "PROGRAM;TIMEOUT" "LABELS")
  if(suite_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "add_suite(${name}): unknown argument ${suite_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT suite_TIMEOUT)
    set(suite_TIMEOUT 120)
  endif()
  stretch_timeout(suite_TIMEOUT)
  if(NOT suite_PROGRAM)
    set(suite_PROGRAM hawser_tests)
  endif()
  set(backends "default")
  if(suite_BACKENDS)
    set(backends io_uring asio)
  endif()
  foreach(backend IN LISTS backends)
    set(test ${name})
    set(environment ${HAWSER_TEST_ENVIRONMENT})
    set(labels suite ${suite_LABELS})
    if(NOT backend STREQUAL "default")
      string(APPEND test .${backend})
      list(APPEND environment HAWSER_TEST_BACKEND=${backend})
      list(APPEND labels ${backend})
    endif()
    add_test(NAME ${test} COMMAND ${suite_PROGRAM} --test-suite=${name} --no-skip=false)
    set_tests_properties(${test} PROPERTIES
      ENVIRONMENT "${environment}"
      LABELS "${labels}"
      SKIP_RETURN_CODE 77
      TIMEOUT ${suite_TIMEOUT})
  endforeach()
endfunction()

# add_program_test(name script TIMEOUT seconds LABEL label ARGUMENTS word...)
#
# Registers a test in Python of whole programs as `name.io_uring` and `name.asio`; see
# support/programs.py.
function(add_program_test name script)
  cmake_parse_arguments(PARSE_ARGV 2 program "" "TIMEOUT;LABEL" "ARGUMENTS")
  stretch_timeout(program_TIMEOUT)
  foreach(backend IN ITEMS io_uring asio)
    add_test(NAME ${name}.${backend}
      COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/${script} ${program_ARGUMENTS})
    set_tests_properties(${name}.${backend} PROPERTIES
      ENVIRONMENT "${HAWSER_TEST_ENVIRONMENT};HAWSER_TEST_BACKEND=${backend}"
      LABELS "${program_LABEL};${backend}"
      SKIP_RETURN_CODE 77
      TIMEOUT ${program_TIMEOUT})
  endforeach()
endfunction()
