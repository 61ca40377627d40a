# SPDX-License-Identifier: Apache-2.0
# Builds and runs the consumer in one of three ways, see CMakeLists.txt beside this file.

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# The folder may hold what an earlier version installed, so it starts empty; what add_subdirectory
# compiles is kept, or every run would compile the library anew.
set(prefix ${WORK_DIR}/prefix)
set(build ${WORK_DIR}/build)
file(REMOVE_RECURSE ${prefix})
if(NOT WAY STREQUAL "subdirectory")
  file(REMOVE_RECURSE ${build})
  # Into a folder with a space, at a place that the build did not know.
  set(prefix "${prefix}/some where")
  run(${CMAKE_COMMAND} --install ${BINARY_DIR} --prefix ${prefix})
endif()

if(WAY STREQUAL "pkg_config")
  find_program(PKG_CONFIG pkg-config REQUIRED)
  set(ENV{PKG_CONFIG_PATH} "${prefix}/${LIBDIR}/pkgconfig")
  execute_process(COMMAND ${PKG_CONFIG} --cflags --libs hawser
    OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  file(MAKE_DIRECTORY ${build})
  foreach(program consumer asio_consumer)
    run(${CXX} -std=c++20 ${CMAKE_CURRENT_LIST_DIR}/${program}.cpp -o ${build}/${program} ${flags})
  endforeach()
else()
  run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/${WAY} -B ${build} -G ${GENERATOR}
    -D CMAKE_CXX_COMPILER=${CXX} -D CMAKE_BUILD_TYPE=${BUILD_TYPE}
    "-DCMAKE_CXX_FLAGS_${BUILD_TYPE_UPPER}=${FLAGS}"
    -D CMAKE_COMPILE_WARNING_AS_ERROR=${WARNING_AS_ERROR}
    "-DCMAKE_PREFIX_PATH=${prefix}" -D HAWSER_SOURCE_DIR=${SOURCE_DIR} --no-warn-unused-cli)
  run(${CMAKE_COMMAND} --build ${build})
endif()
set(ENV{LD_LIBRARY_PATH} "${prefix}/${LIBDIR}")
run(${build}/consumer)
run(${build}/asio_consumer)
