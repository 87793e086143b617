/* What `sfu/media/audience.py` and `sfu/media/kernel.py` find in here. Addresses are numbers. */

/* One of those who get a packet: srtp_t, SSRC as it stands in a packet, place of the transport-wide number. */
struct receiver {
    uint64_t session;
    uint32_t ssrc, place;
};

/* All of them. `rows`: struct iovec of each row, those of one receiver's packets together, `step` from one
   receiver to the next. `numbers`: first the address of all counters, then that of
   what was sent under them, `kept` entries for each. `protect`: srtp_protect. */
struct audience {
    uint64_t rows, numbers, protect;
    uint32_t kept, count, step, unused;
    struct receiver receivers[];
};

void spread(struct audience *audience, int at, const char *packet, int length, unsigned second, unsigned sequence,
            uint32_t timestamp, int send_time_at, unsigned send_time, int number_at, int64_t entry);
int protect(struct audience *audience, int packets);
int receive_batch(int fd, uint64_t headers, unsigned count);
int send_batch(int fd, uint64_t headers, unsigned count);
