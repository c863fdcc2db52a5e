# lockstep_library(NAME [PUBLIC libs…] [PRIVATE libs…]): the current folder's target lockstep_NAME,
# alias lockstep::NAME, from every .cpp below it. A subfolder with a CMakeLists.txt adds its own
# files.
function(lockstep_library name)
  cmake_parse_arguments(ARG "" "" "PUBLIC;PRIVATE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  file(GLOB_RECURSE own_lists CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*/CMakeLists.txt)
  foreach(list ${own_lists})
    get_filename_component(folder ${list} DIRECTORY)
    list(FILTER sources EXCLUDE REGEX "^${folder}/")
  endforeach()
  add_library(lockstep_${name} ${sources})
  add_library(lockstep::${name} ALIAS lockstep_${name})
  set_target_properties(lockstep_${name} PROPERTIES EXPORT_NAME ${name}
      OUTPUT_NAME lockstep_${name})
  target_include_directories(lockstep_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/generated>
    $<INSTALL_INTERFACE:include/lockstep>)
  target_compile_features(lockstep_${name} PUBLIC cxx_std_20)
  target_link_libraries(lockstep_${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE}
      $<BUILD_INTERFACE:lockstep_warnings>)
  set_property(GLOBAL APPEND PROPERTY LOCKSTEP_LIBRARIES lockstep_${name})
endfunction()

# lockstep_tests(FOLDER LIBS libs… LABEL label [TIMEOUT s] [ALONE names…]): a folder's GoogleTest
# program LABEL_FOLDER_tests, from every *_test.cpp in it. It is LABEL_tests if FOLDER is ".", the
# current folder, or if LABEL names the folder already. Each of its tests is a test of ctest's. The
# target tests_LABEL builds all programs of a label.
#   LABEL     one only: gtest_discover_tests() silently loses a second one
#   TIMEOUT   seconds for each test, four times as long under a sanitizer
#   ALONE     files that need a program of their own, NAME from NAME.cpp; one replaces operator new
function(lockstep_tests folder)
  cmake_parse_arguments(ARG "" "TIMEOUT;LABEL" "LIBS;ALONE" ${ARGN})
  if(folder STREQUAL "." OR ARG_LABEL MATCHES "_${folder}$")
    set(name ${ARG_LABEL}_tests)
  else()
    set(name ${ARG_LABEL}_${folder}_tests)
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*_test.cpp)
  foreach(alone ${ARG_ALONE})
    list(REMOVE_ITEM sources ${CMAKE_CURRENT_SOURCE_DIR}/${folder}/${alone}.cpp)
    lockstep_test_program(${alone} SOURCES ${folder}/${alone}.cpp LIBS ${ARG_LIBS}
        LABEL ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
  endforeach()
  if(sources)
    lockstep_test_program(${name} SOURCES ${sources} LIBS ${ARG_LIBS} LABEL ${ARG_LABEL}
        TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()

function(lockstep_test_program name)
  cmake_parse_arguments(ARG "" "TIMEOUT;LABEL" "SOURCES;LIBS" ${ARGN})
  if(NOT ARG_LABEL)
    message(FATAL_ERROR "${name}: tests need a LABEL")
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(LOCKSTEP_SANITIZE)
    math(EXPR ARG_TIMEOUT "4 * ${ARG_TIMEOUT}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} lockstep_test_support GTest::gmock
      GTest::gtest_main lockstep_warnings)
  if(NOT TARGET tests_${ARG_LABEL})
    add_custom_target(tests_${ARG_LABEL})
  endif()
  add_dependencies(tests_${ARG_LABEL} ${name})
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABEL}")
endfunction()
