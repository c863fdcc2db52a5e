# cmake -DSOURCE_DIR=… -DTEMPLATE=… -DHEADER=… -P WriteBuildInfo.cmake: fills in git's answer. It
# writes the header only if the text changed, so nothing is rebuilt without need.
set(LOCKSTEP_GIT_SHA unknown)
find_program(GIT git)
if(GIT AND EXISTS ${SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT} -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --match=
    OUTPUT_VARIABLE sha RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT failed)
    set(LOCKSTEP_GIT_SHA ${sha})
  endif()
endif()
configure_file(${TEMPLATE} ${HEADER} @ONLY)
