# Sets PYTHON_MODULE_FOUND, or PYTHON_MODULE_MISSING to what is missing; then
#   PYTHON_MODULE_PYTHON PYTHON_MODULE_VERSION        the interpreter; "3.11"
#   PYTHON_MODULE_INCLUDE_DIRS PYTHON_MODULE_SUFFIX   of extension modules
#   PYTHON_MODULE_PACKAGES                            "lib/python3.11/dist-packages"
set(PYTHON_MODULE_FOUND FALSE)
unset(PYTHON_MODULE_PYTHON CACHE)
unset(PYTHON_MODULE_MISSING CACHE)
if(LOCKSTEP_PYTHON_MODULE STREQUAL "OFF")
  set(PYTHON_MODULE_MISSING "LOCKSTEP_PYTHON_MODULE is OFF")
  return()
elseif(LOCKSTEP_SANITIZE)
  set(PYTHON_MODULE_MISSING "Python itself is built without the sanitizers of LOCKSTEP_SANITIZE")
  return()
endif()

set(candidates ${LOCKSTEP_PYTHON})
if(NOT candidates)
  find_program(PYTHON_MODULE_IN_PATH python3)
  set(candidates /usr/bin/python3 ${PYTHON_MODULE_IN_PATH})
endif()
set(question [[
import os, sys, sysconfig
assert sys.version_info >= (3, 11)
include = sysconfig.get_path("include")
assert os.path.exists(os.path.join(include, "Python.h"))
debian = os.path.exists("/etc/debian_version") and sys.executable.startswith("/usr/bin/")
packages = "dist-packages" if debian else "site-packages"
version = "%d.%d" % sys.version_info[:2]
print(version, include, sysconfig.get_config_var("EXT_SUFFIX"),
      f"lib/python{version}/{packages}", sep=";")
]])
foreach(python ${candidates})
  execute_process(COMMAND ${python} -c "${question}" OUTPUT_VARIABLE answer ERROR_QUIET
    RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed)
    set(PYTHON_MODULE_PYTHON ${python})
    break()
  endif()
endforeach()
if(NOT PYTHON_MODULE_PYTHON)
  list(JOIN candidates " and " asked)
  set(PYTHON_MODULE_MISSING
    "no Python of 3.11 or newer with its headers in ${asked} (Debian: python3-dev)")
  return()
endif()
list(GET answer 0 PYTHON_MODULE_VERSION)
list(GET answer 1 python_include)
list(GET answer 2 PYTHON_MODULE_SUFFIX)
list(GET answer 3 PYTHON_MODULE_PACKAGES)

find_path(PYTHON_MODULE_PYBIND11 pybind11/pybind11.h)
find_path(PYTHON_MODULE_DLPACK dlpack/dlpack.h)
if(NOT PYTHON_MODULE_PYBIND11)
  set(PYTHON_MODULE_MISSING "there is no pybind11/pybind11.h (Debian: pybind11-dev)")
elseif(NOT PYTHON_MODULE_DLPACK)
  set(PYTHON_MODULE_MISSING "there is no dlpack/dlpack.h (Debian: libdlpack-dev)")
else()
  set(PYTHON_MODULE_FOUND TRUE)
  set(PYTHON_MODULE_INCLUDE_DIRS ${PYTHON_MODULE_PYBIND11} ${PYTHON_MODULE_DLPACK}
    ${python_include})
  list(REMOVE_DUPLICATES PYTHON_MODULE_INCLUDE_DIRS)
endif()
