# cmake -DNAMESPACE=… -DOBJECTS=a.o,b.o -DNM=… -P check_isolation.cmake
# Objects compiled for one instruction set may share no inline function with the rest of the
# program: the linker keeps one copy of each and might keep theirs, which other machines cannot run.
# Fails on a weak symbol outside of NAMESPACE; DW.ref.* (what exception tables refer to, in
# sanitizer builds) is no code.
string(REPLACE "," ";" objects "${OBJECTS}")
execute_process(COMMAND ${NM} -C --defined-only ${objects} OUTPUT_VARIABLE symbols
    COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE ";" "," symbols "${symbols}")
string(REPLACE "\n" ";" lines "${symbols}")
set(shared "")
foreach(line IN LISTS lines)
  if(line MATCHES " [WVu] " AND NOT line MATCHES "cpu::${NAMESPACE}::| DW\\.ref\\.")
    string(APPEND shared "\n  ${line}")
  endif()
endforeach()
if(shared)
  message(FATAL_ERROR "compiled for ${NAMESPACE}, but shared with all code:${shared}")
endif()
