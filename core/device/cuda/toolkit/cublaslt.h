// cuBLASLt's functions, found at run time: a program that was built with CUDA starts where the
// library is missing.
#pragma once

#include <cublasLt.h>

namespace lockstep::cuda {

struct CublasApi {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetStatusString) status_text;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algo_get;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmul) matmul;
};

// Throws EnvironmentError that names the library and where it was looked for.
const CublasApi& cublas();

// Throws EnvironmentError "[cublas] WHAT: TEXT" unless the status is a success.
void check_cublas(cublasStatus_t status, const char* what);

}  // namespace lockstep::cuda
