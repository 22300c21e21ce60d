/* Listens to raw samples on stdin (16 kHz, mono, 16 bits, native byte order) and prints keywords:
 *
 *     arecord -q -t raw -f S16_LE -r 16000 -c 1 | ./listen kws
 */

#include <stdio.h>

#include "ssamba_kws.h"

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL < samples\n", argv[0]);
        return 2;
    }
    char error[256];
    ssamba_kws *kws = ssamba_kws_open(argv[1], NULL, error, sizeof error);
    if (kws == NULL) {
        fprintf(stderr, "error: %s\n", error);
        return 2;
    }
    int16_t samples[1600];
    size_t count;
    int code = SSAMBA_KWS_OK;
    while (code == SSAMBA_KWS_OK && (count = fread(samples, sizeof *samples, 1600, stdin)) > 0) {
        code = ssamba_kws_feed(kws, samples, count);
        ssamba_kws_event event;
        while (ssamba_kws_poll(kws, &event) == SSAMBA_KWS_EVENT) {
            printf("%.3f %s %.3f\n", event.time_s, event.label, event.score);
            fflush(stdout);
        }
    }
    ssamba_kws_close(kws);
    if (code != SSAMBA_KWS_OK) {
        fprintf(stderr, "error: the network failed\n");
        return 2;
    }
    return 0;
}
