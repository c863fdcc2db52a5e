# Sets PYTORCH_FOUND, or PYTORCH_MISSING to what is missing; then
#   PYTORCH_PYTHON PYTORCH_VERSION PYTORCH_CXX11_ABI  the interpreter; "1.13.0a0"; 0 or 1
#   PYTORCH_INCLUDE_DIRS PYTORCH_LIBRARIES
#   PYTORCH_SUFFIX                                    of extension modules
#   PYTORCH_PACKAGES                                  "lib/python3.11/dist-packages"
# PyTorch is asked itself: its own CMake files want CUDA and protobuf, which nothing here needs.
set(PYTORCH_FOUND FALSE)
unset(PYTORCH_PYTHON CACHE)
if(LOCKSTEP_TORCH STREQUAL "OFF")
  set(PYTORCH_MISSING "LOCKSTEP_TORCH is OFF")
  return()
elseif(LOCKSTEP_SANITIZE)
  set(PYTORCH_MISSING "Python itself is built without the sanitizers of LOCKSTEP_SANITIZE")
  return()
endif()

set(candidates ${LOCKSTEP_PYTHON})
if(NOT candidates)
  find_program(PYTORCH_PYTHON_IN_PATH python3)
  set(candidates /usr/bin/python3 ${PYTORCH_PYTHON_IN_PATH})
endif()
set(question [[
import os, sys, sysconfig, torch, torch.distributed as d
assert d.is_available(), "torch.distributed"
debian = os.path.exists("/etc/debian_version") and sys.executable.startswith("/usr/bin/")
packages = "dist-packages" if debian else "site-packages"
print(torch.__version__, int(torch._C._GLIBCXX_USE_CXX11_ABI), os.path.dirname(torch.__file__),
      sysconfig.get_path("include"), sysconfig.get_config_var("EXT_SUFFIX"),
      f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/{packages}", sep=";")
]])
foreach(python ${candidates})
  execute_process(COMMAND ${python} -c "${question}" OUTPUT_VARIABLE answer ERROR_QUIET
    RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failed)
    set(PYTORCH_PYTHON ${python})
    break()
  endif()
endforeach()
if(NOT PYTORCH_PYTHON)
  list(JOIN candidates " and " asked)
  set(PYTORCH_MISSING "no PyTorch with torch.distributed in ${asked} (Debian: python3-torch)")
  return()
endif()
list(GET answer 0 PYTORCH_VERSION)
list(GET answer 1 PYTORCH_CXX11_ABI)
list(GET answer 2 torch_dir)
list(GET answer 3 python_include)
list(GET answer 4 PYTORCH_SUFFIX)
list(GET answer 5 PYTORCH_PACKAGES)

# PyTorch's own wheels bring headers and libraries along; Debian has them in the usual places.
find_path(PYTORCH_INCLUDE torch/csrc/distributed/c10d/ProcessGroup.hpp HINTS ${torch_dir}/include)
find_path(PYTORCH_PYBIND11 pybind11/pybind11.h HINTS ${torch_dir}/include)
find_path(PYTORCH_PYTHON_INCLUDE Python.h PATHS ${python_include} NO_DEFAULT_PATH)
set(PYTORCH_LIBRARIES)
foreach(library torch_python torch torch_cpu c10)
  find_library(PYTORCH_LIBRARY_${library} ${library} HINTS ${torch_dir}/lib)
  list(APPEND PYTORCH_LIBRARIES ${PYTORCH_LIBRARY_${library}})
endforeach()
if(NOT PYTORCH_INCLUDE OR NOT PYTORCH_LIBRARIES OR PYTORCH_LIBRARIES MATCHES NOTFOUND)
  set(PYTORCH_MISSING "PyTorch ${PYTORCH_VERSION} has no headers (Debian: libtorch-dev)")
elseif(NOT PYTORCH_PYBIND11)
  set(PYTORCH_MISSING "there is no pybind11/pybind11.h (Debian: pybind11-dev)")
elseif(NOT PYTORCH_PYTHON_INCLUDE)
  set(PYTORCH_MISSING "there is no Python.h in ${python_include} (Debian: python3-dev)")
elseif(NOT PYTORCH_VERSION MATCHES "^1\\.13")
  set(PYTORCH_MISSING "PyTorch is ${PYTORCH_VERSION}, and lockstep.torch is written for 1.13")
else()
  set(PYTORCH_FOUND TRUE)
  set(PYTORCH_INCLUDE_DIRS ${PYTORCH_INCLUDE} ${PYTORCH_INCLUDE}/torch/csrc/api/include
    ${PYTORCH_PYBIND11} ${PYTORCH_PYTHON_INCLUDE})
  list(REMOVE_DUPLICATES PYTORCH_INCLUDE_DIRS)
endif()
