# A worker's version with a fingerprint of what it is built from, such as 0.1.0+3f2a9c81d0e4, as a source file:
#   cmake -DROOT=FOLDER -DVERSION=0.1.0 -DOUTPUT=FILE.cc -P build_version.cmake
# Names and contents decide, so equal trees have equal fingerprints, wherever they lie and whenever they were written.
cmake_minimum_required(VERSION 3.25) # before the function: it keeps the policies of here

# Sets `result` to the files, relative to `root`, in a fixed order. Further arguments go to file(GLOB).
function(caravan_worker_sources result root)
  set(patterns)
  foreach(folder worker kernels common proto)
    foreach(name *.h *.cc *.cu *.cuh *.inc *.proto *.cmake CMakeLists.txt)
      list(APPEND patterns ${root}/${folder}/${name})
    endforeach()
  endforeach()
  file(GLOB_RECURSE files LIST_DIRECTORIES false RELATIVE ${root} ${ARGN} ${patterns})
  list(FILTER files EXCLUDE REGEX "(^|/)\\.") # an editor's own
  list(APPEND files CMakeLists.txt)
  list(SORT files)
  set(${result} ${files} PARENT_SCOPE)
endfunction()

if(NOT CMAKE_SCRIPT_MODE_FILE)
  return() # included for the function alone
endif()
foreach(argument ROOT VERSION OUTPUT)
  if("${${argument}}" STREQUAL "")
    message(FATAL_ERROR "-D${argument}=… is missing")
  endif()
endforeach()
cmake_path(ABSOLUTE_PATH ROOT NORMALIZE)
caravan_worker_sources(files ${ROOT})
set(list)
foreach(file IN LISTS files)
  file(SHA256 ${ROOT}/${file} hash)
  string(APPEND list "${hash} ${file}\n")
endforeach()
string(SHA256 hash "${list}")
string(SUBSTRING ${hash} 0 12 fingerprint)
# Left alone where it says so already: nothing is compiled then.
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
// Written by worker/build_version.cmake.
#include "worker/build_version.h"

namespace caravan {

const char kBuildVersion[] = "@VERSION@+@fingerprint@";

}  // namespace caravan
]] @ONLY)
