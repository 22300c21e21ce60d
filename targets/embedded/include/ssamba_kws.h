/* ssamba-kws: a keyword spotter over a stream of 16 kHz samples.
 *
 *     char error[256];
 *     ssamba_kws *kws = ssamba_kws_open("kws", NULL, error, sizeof error);
 *     while (... samples ...) {
 *         ssamba_kws_event event;
 *         ssamba_kws_feed(kws, samples, count);
 *         while (ssamba_kws_poll(kws, &event) == SSAMBA_KWS_EVENT)
 *             printf("%s\n", event.label);
 *     }
 *     ssamba_kws_close(kws);
 *
 * Threads: a spotter may move between threads but is used by one at a time; different spotters are
 * independent. Each computes on the thread that feeds it, about once a hop: not for an audio
 * callback that must return at once.
 *
 * Memory: it is taken by open and freed by close; a longer stream takes no more.
 */

#ifndef SSAMBA_KWS_H
#define SSAMBA_KWS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What feed, poll, reset and selftest return. */
#define SSAMBA_KWS_OK 0
#define SSAMBA_KWS_EVENT 1     /* poll only: an event was written */
#define SSAMBA_KWS_DIFFERS 2   /* selftest only: this machine computes something else */
#define SSAMBA_KWS_ARGUMENT -1 /* a pointer that must not be NULL, or is not aligned */
#define SSAMBA_KWS_FAILED -2   /* the network failed; after a fault of the library every call
                                  fails so, and only close is left */

typedef struct ssamba_kws ssamba_kws;

/* 0 in any field means its default: what the folder of the model says, or for a file the last number
 * below. `ssamba_kws_settings settings = {0};` asks for nothing. */
typedef struct {
    uint32_t hop_ms;        /* from one window to the next, a multiple of 10; 100 */
    uint32_t window_ms;     /* sound in one window; all that the model takes */
    uint32_t smooth;        /* windows whose scores are averaged; 3 */
    uint32_t refractory_ms; /* pause after an event; 1000 */
    float threshold;        /* mean score from which a label, any, fires, up to 1; 0.8 */
} ssamba_kws_settings;

typedef struct {
    const char *label; /* UTF-8, owned by the spotter, valid until close */
    float score;       /* mean over the last windows, from 0 to 1 */
    double time_s;     /* seconds from the start of the stream to the end of the newest window */
} ssamba_kws_event;

/* Opens a folder that `ssamba-edge export --target embedded` wrote, or a file that `ssamba-edge
 * export` wrote (not in a library built without the feature `onnx`). `model` is a path in UTF-8;
 * `settings` may be NULL. NULL comes back when it fails; then, unless `error` is NULL, one sentence stands there, cut
 * to `error_size` bytes with the final NUL. The spotter belongs to the caller, who closes it. */
ssamba_kws *ssamba_kws_open(const char *model, const ssamba_kws_settings *settings, char *error,
                            size_t error_size);

/* Takes in the next `count` samples: 16 kHz, mono, 16 bits, native byte order. They are read, not
 * kept. How a stream is cut into calls changes nothing. */
int ssamba_kws_feed(ssamba_kws *kws, const int16_t *samples, size_t count);

/* Writes the oldest event that waits and returns SSAMBA_KWS_EVENT, or returns SSAMBA_KWS_OK when
 * none does. 64 can wait; beyond, the oldest is dropped. */
int ssamba_kws_poll(ssamba_kws *kws, ssamba_kws_event *event);

/* Forgets the stream and the events that wait: the next sample is the first of another stream. */
int ssamba_kws_reset(ssamba_kws *kws);

/* Whether this machine computes what the model should put out, by the test that is in it: SSAMBA_KWS_OK
 * or SSAMBA_KWS_DIFFERS, and the largest difference in `max_abs_error`, which may be NULL. A model that was
 * exported without its test fails. The stream goes on where it was. */
int ssamba_kws_selftest(ssamba_kws *kws, float *max_abs_error);

/* Frees the spotter and its labels. NULL is allowed. */
void ssamba_kws_close(ssamba_kws *kws);

#ifdef __cplusplus
}
#endif

#endif
