# SPDX-License-Identifier: Apache-2.0
# What concerns how hawser itself is compiled, and never what uses it.

if(PROJECT_IS_TOP_LEVEL)
  # Several build trees of one checkout share their cache entries when the folder is not hashed.
  find_program(HAWSER_CCACHE ccache)
  if(HAWSER_CCACHE AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER
      "${CMAKE_COMMAND};-E;env;CCACHE_NOHASHDIR=1;${HAWSER_CCACHE}")
  endif()
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Kind of build" FORCE)
  endif()
endif()

# Instrumentation goes to everything below this folder, tests and samples included.
if(HAWSER_SANITIZE)
  add_compile_options(-fsanitize=${HAWSER_SANITIZE} -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${HAWSER_SANITIZE})
endif()
if(HAWSER_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(HAWSER_COVERAGE)
  add_compile_options(-fprofile-instr-generate -fcoverage-mapping)
  add_link_options(-fprofile-instr-generate)
endif()

# Not installed; targets name them inside $<BUILD_INTERFACE> so that the export does not either.
add_library(hawser_warnings INTERFACE)
target_compile_options(hawser_warnings INTERFACE
  $<$<CXX_COMPILER_ID:GNU,Clang,AppleClang>:-Wall;-Wextra;-Wpedantic;-Wshadow>)

find_path(HAWSER_ASIO_INCLUDE_DIR asio.hpp REQUIRED
  DOC "Folder of the header-only, standalone Asio (1.22 or later): libasio-dev on Debian")
add_library(hawser_asio INTERFACE)
target_include_directories(hawser_asio SYSTEM INTERFACE ${HAWSER_ASIO_INCLUDE_DIR})
target_compile_definitions(hawser_asio INTERFACE ASIO_STANDALONE ASIO_NO_DEPRECATED)
# Asio 1.22 does not know that clang has coroutines by now.
target_compile_definitions(hawser_asio INTERFACE
  $<$<CXX_COMPILER_ID:Clang>:ASIO_HAS_CO_AWAIT> $<$<CXX_COMPILER_ID:Clang>:ASIO_HAS_STD_COROUTINE>)
