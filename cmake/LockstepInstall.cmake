# cmake --install: the libraries, their headers below include/lockstep, and what
# find_package(lockstep) reads. The program is cli's.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(lockstep_libraries GLOBAL PROPERTY LOCKSTEP_LIBRARIES)
install(TARGETS ${lockstep_libraries} EXPORT lockstepTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})

# The public headers, by their path from the root. All others are internal and not installed. A
# public header may include only public headers (tests/install checks that).
set(public_headers
  core/autograd/hook_list.h core/autograd/node.h core/autograd/saved_tensor.h
    core/autograd/variable.h
  core/base/clock.h core/base/cores.h core/base/dtype.h core/base/error.h core/base/half.h
    core/base/log.h core/base/mutex.h core/base/parallel.h core/base/philox.h
    core/base/progression.h core/base/shape.h core/base/sum_tree.h core/base/thread.h
  core/device/allocator.h core/device/capture.h core/device/cuda_device.h core/device/device.h
    core/device/kernels.h core/device/probe.h core/device/queue.h core/device/step_numbers.h
    core/device/step_recorder.h
  core/nn/init.h core/nn/layers.h core/nn/module.h core/nn/random.h core/nn/recompute.h
  core/ops/common.h core/ops/functions.h core/ops/precision.h
  core/optim/clip.h core/optim/device_rows.h core/optim/gradient_scale.h
    core/optim/optimizer.h core/optim/schedule.h core/optim/step_numbers_on.h
  core/screen/screen_writer.h
  core/tensor/binary_counter.h core/tensor/shard_spec.h core/tensor/storage.h
    core/tensor/sum_slots.h core/tensor/tensor.h
  comm/device_mesh.h comm/exposure.h comm/interrupt.h comm/long_agreement.h comm/peer_failure.h
    comm/process_group.h comm/ranks_text.h comm/store.h comm/text.h comm/work.h
  comm/local/hash_store.h
  comm/mpi/factory.h
  comm/reduce/reduce_tree.h
  data_parallel/uneven_inputs.h
  ddp/buckets.h ddp/call_labels.h ddp/comm_hook.h ddp/ddp.h
  fsdp/fully_shard.h fsdp/mesh.h fsdp/options.h fsdp/wrap.h
  fsdp/plan/memory_plan.h fsdp/plan/traffic_plan.h
  checkpoint/checkpoint.h
  checkpoint/exchange/diff.h checkpoint/exchange/safetensors_folder.h
    checkpoint/exchange/tensor_source.h
  checkpoint/files/file_system.h checkpoint/files/readable_file.h
  checkpoint/format/manifest.h checkpoint/format/safetensors.h
    checkpoint/format/safetensors_entries.h
  checkpoint/replica/replica.h
  checkpoint/save/claim.h checkpoint/save/room.h checkpoint/save/saver.h
  launcher/launch.h
  launcher/base/failure.h launcher/base/launch_spec.h launcher/base/stop_wish.h
  launcher/rank/rank_env.h launcher/rank/lease.h
  train/config/config.h train/config/words.h
  train/data/data_identity.h train/data/dataset.h train/data/device_batches.h
  train/exchange/exchange.h
  train/inference/evaluate.h train/inference/generate.h
  train/metrics/devices.h train/metrics/memory_report.h train/metrics/stragglers.h
  train/models/factory.h train/models/gpt.h train/models/llama.h train/models/mlp.h
  train/parallel/same_weights.h train/parallel/strategy.h
  train/run/buffers.h train/run/checkpoints.h train/run/job_notes.h train/run/leaf_sums.h
    train/run/loop.h train/run/replicas.h train/run/saved_model.h train/run/trainer.h)
foreach(header ${public_headers})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${header}
      DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/${folder})
endforeach()
install(FILES ${PROJECT_BINARY_DIR}/generated/core/base/build_info.h
    DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/core/base)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/lockstep)

set(lockstep_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lockstep)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/lockstepConfig.cmake.in
    ${PROJECT_BINARY_DIR}/lockstepConfig.cmake
  INSTALL_DESTINATION ${lockstep_config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
install(EXPORT lockstepTargets NAMESPACE lockstep:: DESTINATION ${lockstep_config_dir})
install(FILES ${PROJECT_BINARY_DIR}/lockstepConfig.cmake
    ${PROJECT_BINARY_DIR}/lockstepConfigVersion.cmake DESTINATION ${lockstep_config_dir})
