# LOCKSTEP_CUDA:
#   ON    a CUDA device, compiled by nvcc; needs CUDA 13. The program also runs without a driver.
#   SIM   the same sources on a simulated device (docs/gpu.md); needs no toolkit
#   OFF   CPUs only
#   AUTO  OFF for now: no part of the device has run on a card yet
# LOCKSTEP_HAS_CUDA: whether there is a device. LOCKSTEP_CUDA_RUNTIME: what it links.
# LOCKSTEP_CUDA_VERSION: of the toolkit, "simulated" or "none"; build_info.h records it.
# LOCKSTEP_CUDNN_INCLUDE: the folder of cuDNN's headers. ON needs it; SIM builds the tests of its
# graphs if it is there. LOCKSTEP_CUDNN_LIBRARY is for those tests.
set(LOCKSTEP_HAS_CUDA OFF)
set(LOCKSTEP_CUDA_RUNTIME "")
set(LOCKSTEP_CUDA_VERSION none)
if(LOCKSTEP_CUDA STREQUAL "ON")
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR
        "LOCKSTEP_CUDA=ON: no CUDA compiler was found. Put nvcc in the PATH, name it with "
        "-DCMAKE_CUDA_COMPILER=…, or use LOCKSTEP_CUDA=OFF.")
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80)  # each target names its own
  endif()
  enable_language(CUDA)
  # CMake 3.25 does not know how to ask nvcc for C++20.
  foreach(kind STANDARD EXTENSION)
    if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
      set(CMAKE_CUDA20_${kind}_COMPILE_OPTION "-std=c++20")
    endif()
  endforeach()
  find_package(CUDAToolkit 13 REQUIRED)
  set(LOCKSTEP_HAS_CUDA ON)
  set(LOCKSTEP_CUDA_RUNTIME CUDA::cudart_static ${CMAKE_DL_LIBS})
  set(LOCKSTEP_CUDA_VERSION ${CUDAToolkit_VERSION})
elseif(LOCKSTEP_CUDA STREQUAL "SIM")
  set(LOCKSTEP_HAS_CUDA ON)
  set(LOCKSTEP_CUDA_VERSION simulated)
elseif(NOT LOCKSTEP_CUDA MATCHES "^(AUTO|OFF)$")
  message(FATAL_ERROR "LOCKSTEP_CUDA: expected AUTO, ON, OFF or SIM, got '${LOCKSTEP_CUDA}'")
endif()
if(LOCKSTEP_HAS_CUDA)
  find_path(LOCKSTEP_CUDNN_INCLUDE cudnn_graph.h
      HINTS ${CUDAToolkit_INCLUDE_DIRS} /usr/local/cuda/include)
  find_library(LOCKSTEP_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9
      HINTS ${LOCKSTEP_CUDNN_INCLUDE}/../lib ${LOCKSTEP_CUDNN_INCLUDE}/../lib64)
  if(LOCKSTEP_CUDA STREQUAL "ON" AND NOT LOCKSTEP_CUDNN_INCLUDE)
    message(FATAL_ERROR "LOCKSTEP_CUDA=ON: cuDNN's headers were not found. Install cuDNN 9 for "
        "CUDA 13, or name their folder with -DLOCKSTEP_CUDNN_INCLUDE=….")
  endif()
endif()
