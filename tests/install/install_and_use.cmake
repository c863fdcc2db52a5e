# cmake -D… -P install_and_use.cmake: see CMakeLists.txt.
cmake_minimum_required(VERSION 3.25)

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
      ERROR_VARIABLE output TIMEOUT 500)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nended with ${result}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# refuse(TEXT ARGS…): configuring the consumer with ARGS must fail and say TEXT.
function(refuse text)
  execute_process(COMMAND ${configure} -B ${WORK_DIR}/refused ${ARGN} RESULT_VARIABLE result
      OUTPUT_VARIABLE output ERROR_VARIABLE output)
  file(REMOVE_RECURSE ${WORK_DIR}/refused)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  if(result EQUAL 0 OR NOT output MATCHES "${text}")
    message(FATAL_ERROR "expected a refusal with '${text}' for ${ARGN}, got ${result}:\n${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK_DIR})
set(prefix ${WORK_DIR}/prefix)
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})

set(configure ${CMAKE_COMMAND} -S ${CONSUMER_DIR} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
    -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -DCMAKE_BUILD_TYPE=${BUILD_TYPE}
    -DCMAKE_PREFIX_PATH=${prefix})
run(${configure} -B ${WORK_DIR}/build -DWANTED_VERSION=${VERSION})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run(${WORK_DIR}/build/consumer)
message(STATUS "${output}")
if(NOT output MATCHES "all ranks agree")
  message(FATAL_ERROR "the consumer did not say that its ranks agree:\n${output}")
endif()
run(${WORK_DIR}/build/every_component)

# No installed header names one that is not.
file(GLOB_RECURSE headers RELATIVE ${prefix}/include/lockstep ${prefix}/include/lockstep/*.h)
foreach(header ${headers})
  file(STRINGS ${prefix}/include/lockstep/${header} lines REGEX "^#include \"")
  foreach(line ${lines})
    string(REGEX REPLACE "^#include \"([^\"]*)\".*" "\\1" included "${line}")
    if(NOT EXISTS ${prefix}/include/lockstep/${included})
      message(SEND_ERROR "${header} includes ${included}, which is not installed")
    endif()
  endforeach()
endforeach()

run(${prefix}/bin/lockstep --version)
if(NOT output MATCHES "${VERSION}")
  message(FATAL_ERROR "the installed program does not name version ${VERSION}:\n${output}")
endif()

refuse("has no component 'nonsense'" -DEXTRA_COMPONENT=nonsense)
refuse("compatible with requested version" -DWANTED_VERSION=99.0)
file(REMOVE_RECURSE ${WORK_DIR})
