# LOCKSTEP_CUDA_VERSION: the CUDA toolkit's version, or "none". This version computes on CPUs only,
# with or without a toolkit on the machine; what is found is recorded in build_info.h.
set(LOCKSTEP_CUDA_VERSION none)
if(LOCKSTEP_CUDA STREQUAL "ON")
  message(FATAL_ERROR
      "LOCKSTEP_CUDA=ON: lockstep ${PROJECT_VERSION} has no CUDA device yet. Use AUTO or OFF.")
elseif(LOCKSTEP_CUDA STREQUAL "AUTO")
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND)
    set(LOCKSTEP_CUDA_VERSION ${CUDAToolkit_VERSION})
    message(STATUS
        "CUDA toolkit ${CUDAToolkit_VERSION} is here; this version computes on CPUs only")
  endif()
endif()
