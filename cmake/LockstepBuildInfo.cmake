# Writes generated/core/base/build_info.h while configuring, and again at each build: a commit
# changes git's answer, but no file that CMake watches. Include it after the folders, since it
# records what they found.

# lockstep_version_macros(OUT FILE MAJOR MINOR PATCH): "4.1.4" from the three #defines of a header,
# or "unknown".
function(lockstep_version_macros out file)
  set(parts "")
  if(EXISTS "${file}")
    foreach(macro ${ARGN})
      file(STRINGS "${file}" line REGEX "#[ ]*define[ ]+${macro}[ ]+[0-9]+" LIMIT_COUNT 1)
      string(REGEX MATCH "[0-9]+$" number "${line}")
      list(APPEND parts "${number}")
    endforeach()
  endif()
  list(JOIN parts "." text)
  if(NOT text MATCHES "^[0-9]+(\\.[0-9]+)*$")
    set(text unknown)
  endif()
  set(${out} ${text} PARENT_SCOPE)
endfunction()

set(LOCKSTEP_MPI_VERSION none)
if(LOCKSTEP_HAS_MPI)
  lockstep_version_macros(LOCKSTEP_MPI_VERSION "${MPI_CXX_HEADER_DIR}/mpi.h"
      OMPI_MAJOR_VERSION OMPI_MINOR_VERSION OMPI_RELEASE_VERSION)
endif()

set(LOCKSTEP_UCX_VERSION none)
if(LOCKSTEP_HAS_UCX)
  file(STRINGS "${LOCKSTEP_UCX_INCLUDE}/ucp/api/ucp_version.h" line
    REGEX "#define UCP_API_(MAJOR|MINOR)" LIMIT_COUNT 2)
  string(REGEX MATCHALL "[0-9]+" LOCKSTEP_UCX_VERSION "${line}")
  list(JOIN LOCKSTEP_UCX_VERSION "." LOCKSTEP_UCX_VERSION)
endif()

set(LOCKSTEP_BUILD_TYPE_TEXT ${CMAKE_BUILD_TYPE})
if(LOCKSTEP_SANITIZE)
  string(APPEND LOCKSTEP_BUILD_TYPE_TEXT " sanitize=${LOCKSTEP_SANITIZE}")
endif()

# Everything but git's answer is known now.
set(LOCKSTEP_GIT_SHA "@LOCKSTEP_GIT_SHA@")
set(build_info_template ${PROJECT_BINARY_DIR}/build_info.h.in)
set(build_info_header ${PROJECT_BINARY_DIR}/generated/core/base/build_info.h)
configure_file(${PROJECT_SOURCE_DIR}/core/base/build_info.h.in ${build_info_template} @ONLY)

set(write_build_info ${CMAKE_COMMAND} -DSOURCE_DIR=${PROJECT_SOURCE_DIR}
    -DTEMPLATE=${build_info_template} -DHEADER=${build_info_header}
    -P ${PROJECT_SOURCE_DIR}/cmake/WriteBuildInfo.cmake)
execute_process(COMMAND ${write_build_info} COMMAND_ERROR_IS_FATAL ANY)
add_custom_target(lockstep_build_info COMMAND ${write_build_info} BYPRODUCTS ${build_info_header}
    VERBATIM)
add_dependencies(lockstep_core lockstep_build_info)
