/* The steps that a packet takes once for each of its receivers, and the two system calls.
 *
 * Built where the packet path is compiled (hatch_build.py). Without it Python takes the same steps; the tests
 * of `sfu/media/audience.py`, `batch.py` and `udp.py` hold both to the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "_rows.h"

static void put(uint8_t *at, int bytes, uint32_t value) {
    while (bytes--) at[bytes] = value, value >>= 8;
}

/* Write the packet `at` of a burst into its row of each receiver. Its second byte, its sequence number and its
 * timestamp are what is said here, and so is the time in 24 bits of `send_time_at`; its SSRC and the transport-wide
 * number at `number_at` are each receiver's. Nothing stands at 0. `entry` is remembered of the number. */
void spread(struct audience *audience, int at, const char *packet, int length, unsigned second, unsigned sequence,
            uint32_t timestamp, int send_time_at, unsigned send_time, int number_at, int64_t entry) {
    struct iovec *rows = (struct iovec *)audience->rows + at;
    uint64_t *numbers = (void *)audience->numbers;
    uint16_t *counters = (void *)numbers[0];
    int64_t *sent = (void *)numbers[1];
    uint8_t *first = rows[0].iov_base;
    memcpy(first, packet, length);
    first[1] = second;
    put(first + 2, 2, sequence);
    put(first + 4, 4, timestamp);
    if (send_time_at) put(first + send_time_at, 3, send_time);
    for (uint32_t i = 0; i < audience->count; i++) {
        const struct receiver *receiver = &audience->receivers[i];
        uint8_t *row = rows->iov_base;
        rows->iov_len = length;
        rows += audience->step;
        if (i) memcpy(row, first, length);
        memcpy(row + 8, &receiver->ssrc, 4);
        if (!number_at) continue;
        uint16_t number = ++counters[receiver->place];
        sent[(uint64_t)receiver->place * audience->kept + number % audience->kept] = entry;
        put(row + number_at, 2, number);
    }
}

/* Encrypt the rows of so many packets, receiver by receiver; return how many libsrtp refused: those have no length
 * afterwards. */
int protect(struct audience *audience, int packets) {
    struct iovec *rows = (void *)audience->rows;
    int (*srtp_protect)(void *, void *, int *) = (void *)audience->protect;
    int refused = 0;
    for (uint32_t i = 0; i < audience->count; i++, rows += audience->step)
        for (int at = 0; at < packets; at++) {
            int length = rows[at].iov_len;
            if (srtp_protect((void *)audience->receivers[i].session, rows[at].iov_base, &length)) {
                length = 0;
                refused++;
            }
            rows[at].iov_len = length;
        }
    return refused;
}

/* recvmmsg(2) and sendmmsg(2); a failure is its number, negative. */
int receive_batch(int fd, uint64_t headers, unsigned count) {
    int done = recvmmsg(fd, (void *)headers, count, 0, NULL);
    return done < 0 ? -errno : done;
}

int send_batch(int fd, uint64_t headers, unsigned count) {
    int done = sendmmsg(fd, (void *)headers, count, 0);
    return done < 0 ? -errno : done;
}
