# install(), and the package for find_package(jet [COMPONENTS cuda] [COMPONENTS tokenizer]).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(jet_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/jet")

install(TARGETS jet EXPORT jetTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(TARGETS jet_cuda EXPORT jetTargets FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT jetTargets NAMESPACE jet:: DESTINATION "${jet_package_dir}")
set(jet_has_tokenizer OFF)
if(TARGET jet_tokenizer)
  set(jet_has_tokenizer ON)
  install(TARGETS jet_tokenizer EXPORT jetTokenizerTargets)
  install(EXPORT jetTokenizerTargets NAMESPACE jet:: DESTINATION "${jet_package_dir}")
endif()
set(jet_has_json OFF)
if(TARGET nlohmann_json::nlohmann_json)
  set(jet_has_json ON)
endif()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/jetConfig.cmake.in" "${PROJECT_BINARY_DIR}/jetConfig.cmake"
  INSTALL_DESTINATION "${jet_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/jetConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/jetConfig.cmake" "${PROJECT_BINARY_DIR}/jetConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/FindPCRE2.cmake" "${PROJECT_SOURCE_DIR}/cmake/Findutf8proc.cmake"
  DESTINATION "${jet_package_dir}")
