// A small forwarding server on Pion v3, as its users write one: TrackLocalStaticRTP to everybody, the default
// interceptors (NACK, reports, transport-cc). What bench/compare.py measures ours against.
package main

import (
	"log"
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/webrtc/v3"
)

type feed struct {
	pc     *webrtc.PeerConnection
	mu     sync.Mutex
	tracks []*webrtc.TrackLocalStaticRTP
	ssrc   webrtc.SSRC
}
type msg struct {
	Op      string `json:"op"`
	Sdp     string `json:"sdp,omitempty"`
	ID      int    `json:"id,omitempty"`
	Exclude []int  `json:"exclude,omitempty"`
	Error   string `json:"error,omitempty"`
}

var (
	api   *webrtc.API
	mu    sync.Mutex
	feeds = map[int]*feed{}
	next  = 1
	up    = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
)

func local(pc *webrtc.PeerConnection, d webrtc.SessionDescription) (string, error) {
	g := webrtc.GatheringCompletePromise(pc)
	if err := pc.SetLocalDescription(d); err != nil {
		return "", err
	}
	<-g
	return pc.LocalDescription().SDP, nil
}
func pli(f *feed) {
	if f.ssrc != 0 {
		_ = f.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(f.ssrc)}})
	}
}
func handle(m msg, pcs *[]*webrtc.PeerConnection, mine *[]int, sub **webrtc.PeerConnection) (r msg, err error) {
	switch m.Op {
	case "publish":
		pc, e := api.NewPeerConnection(webrtc.Configuration{})
		if e != nil {
			return r, e
		}
		*pcs = append(*pcs, pc)
		f := &feed{pc: pc}
		pc.OnTrack(func(t *webrtc.TrackRemote, rc *webrtc.RTPReceiver) {
			l, e := webrtc.NewTrackLocalStaticRTP(t.Codec().RTPCodecCapability, t.Kind().String(), "s")
			if e != nil {
				return
			}
			f.mu.Lock()
			f.tracks = append(f.tracks, l)
			if t.Kind() == webrtc.RTPCodecTypeVideo {
				f.ssrc = t.SSRC()
			}
			f.mu.Unlock()
			b := make([]byte, 1500)
			for {
				n, _, e := t.Read(b)
				if e != nil {
					return
				}
				_, _ = l.Write(b[:n])
			}
		})
		if err = pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: m.Sdp}); err != nil {
			return
		}
		a, e := pc.CreateAnswer(nil)
		if e != nil {
			return r, e
		}
		s, e := local(pc, a)
		mu.Lock()
		id := next
		next++
		feeds[id] = f
		mu.Unlock()
		*mine = append(*mine, id)
		return msg{Op: "answer", Sdp: s, ID: id}, e
	case "subscribe":
		pc, e := api.NewPeerConnection(webrtc.Configuration{})
		if e != nil {
			return r, e
		}
		*pcs = append(*pcs, pc)
		*sub = pc
		ex := map[int]bool{}
		for _, i := range m.Exclude {
			ex[i] = true
		}
		var fs []*feed
		mu.Lock()
		for i, f := range feeds {
			if !ex[i] {
				fs = append(fs, f)
			}
		}
		mu.Unlock()
		for _, f := range fs {
			f.mu.Lock()
			ts := append([]*webrtc.TrackLocalStaticRTP{}, f.tracks...)
			f.mu.Unlock()
			for _, t := range ts {
				s, e := pc.AddTrack(t)
				if e != nil {
					return r, e
				}
				go func() {
					b := make([]byte, 1500)
					for {
						if _, _, e := s.Read(b); e != nil {
							return
						}
					}
				}()
			}
		}
		pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
			if s == webrtc.PeerConnectionStateConnected {
				for _, f := range fs {
					pli(f)
				}
			}
		})
		o, e := pc.CreateOffer(nil)
		if e != nil {
			return r, e
		}
		s, e := local(pc, o)
		return msg{Op: "offer", Sdp: s}, e
	}
	err = (*sub).SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: m.Sdp})
	return msg{Op: "ok"}, err
}
func main() {
	me := &webrtc.MediaEngine{}
	if err := me.RegisterDefaultCodecs(); err != nil {
		log.Fatal(err)
	}
	ir := &interceptor.Registry{}
	if err := webrtc.RegisterDefaultInterceptors(me, ir); err != nil {
		log.Fatal(err)
	}
	se := webrtc.SettingEngine{}
	se.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	se.SetHostAcceptanceMinWait(0)
	api = webrtc.NewAPI(webrtc.WithMediaEngine(me), webrtc.WithInterceptorRegistry(ir), webrtc.WithSettingEngine(se))
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		var pcs []*webrtc.PeerConnection
		var mine []int
		var sub *webrtc.PeerConnection
		for {
			var m msg
			if c.ReadJSON(&m) != nil {
				break
			}
			x, err := handle(m, &pcs, &mine, &sub)
			if err != nil {
				log.Println(err)
				x = msg{Op: "error", Error: err.Error()}
			}
			_ = c.WriteJSON(x)
		}
		mu.Lock()
		for _, i := range mine {
			delete(feeds, i)
		}
		mu.Unlock()
		for _, p := range pcs {
			_ = p.Close()
		}
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
