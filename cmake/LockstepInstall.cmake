# cmake --install: the libraries, their headers below include/lockstep, and what find_package(lockstep) reads. The program is cli's.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(lockstep_libraries GLOBAL PROPERTY LOCKSTEP_LIBRARIES)
install(TARGETS ${lockstep_libraries} EXPORT lockstepTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

# Headers keep their path from the root. Those of one backend or device, and the launcher's insides, are nobody's business but ours.
foreach(folder core comm ddp fsdp checkpoint launcher train)
  if(IS_DIRECTORY ${PROJECT_SOURCE_DIR}/${folder})
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep FILES_MATCHING
      PATTERN "*.h"
      PATTERN "cpu" EXCLUDE PATTERN "cuda" EXCLUDE PATTERN "no_cuda" EXCLUDE
      PATTERN "shm" EXCLUDE PATTERN "tcp" EXCLUDE PATTERN "nccl" EXCLUDE
      PATTERN "agent" EXCLUDE PATTERN "rendezvous" EXCLUDE PATTERN "proto" EXCLUDE
      PATTERN "grpc_store.h" EXCLUDE PATTERN "job_environment.h" EXCLUDE PATTERN "served_store.h" EXCLUDE)
  endif()
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/generated/core/base/build_info.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/core/base)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/lockstep)

set(lockstep_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/lockstepConfig.cmake.in ${PROJECT_BINARY_DIR}/lockstepConfig.cmake
  INSTALL_DESTINATION ${lockstep_config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT lockstepTargets NAMESPACE lockstep:: DESTINATION ${lockstep_config_dir})
install(FILES ${PROJECT_BINARY_DIR}/lockstepConfig.cmake ${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake DESTINATION ${lockstep_config_dir})
