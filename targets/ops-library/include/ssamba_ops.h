/* ssamba-ops: kernels of the operators ssamba::SelectiveScan, ssamba::ShortConv and ssamba::AddLayerNorm
 * for ONNX Runtime 1.24 and newer, on the CPU, for sequences in single and half precision.
 *
 * Linked dynamically, ONNX Runtime opens the library itself and finds the function by its name:
 *
 *     api->RegisterCustomOpsLibrary_V2(options, "libssamba_ops.so");
 *
 * Linked statically, as on iOS:
 *
 *     OrtStatus *status = RegisterCustomOps(options, OrtGetApiBase());
 *
 * It takes one ONNX Runtime a process; a second one gets an error. On Linux and Android the library stays loaded
 * when it is closed; elsewhere do not close it while a session lives.
 */

#ifndef SSAMBA_OPS_H
#define SSAMBA_OPS_H

#include <onnxruntime_c_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Adds the operators to the options of a session, which is then created from them. Returns NULL, or a status
 * to be released with OrtApi.ReleaseStatus, whose message says what was wrong: an ONNX Runtime that is too old,
 * or a second one in the process. Neither argument may be NULL. May be called for any number of options, from
 * any thread. */
OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

#ifdef __cplusplus
}
#endif

#endif
