package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// kernel is what the Filter needs of nftables. nfTables is the real one.
type kernel interface {
	// generation is a number that every transaction on this network namespace's ruleset, whoever makes it,
	// increases by one.
	generation() (uint32, error)
	// look reads our table, and the elements of its sets if that is asked.
	look(withElements bool) (sight, error)
	// apply makes one transaction: all of it, or on an error nothing.
	apply(c change) error
}

const (
	// patience bounds each conversation with the kernel, which makes others wait while somebody writes a lot. It
	// is there because the library waits for one answer per message, and the kernel, when it refuses a transaction
	// as a whole, gives a single one.
	patience = 15 * time.Second
	// chunk is how many elements go in one attribute, whose length is a 16-bit number of bytes (struct nlattr,
	// include/uapi/linux/netlink.h): an element takes 36 at most.
	chunk = 1000
	// elementSize and tableSize are more bytes than an element, and all that is not elements, take in a message.
	elementSize, tableSize = 64, 64 << 10
)

// nfTables speaks to the network namespace of the thread that calls it.
type nfTables struct{ layout layout }

var _ kernel = nfTables{}

func (n nfTables) generation() (uint32, error) {
	id, err := readGeneration()
	if err != nil {
		return 0, fmt.Errorf("read the generation of nftables: %w", explain(err))
	}
	return id, nil
}

func readGeneration() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	answer, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, 4), // struct nfgenmsg, include/uapi/linux/netfilter/nfnetlink.h
	})
	if err != nil {
		return 0, err
	}
	for _, m := range answer {
		attributes, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
		if err != nil {
			return 0, err
		}
		attributes.ByteOrder = binary.BigEndian
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), attributes.Err()
			}
		}
	}
	return 0, errors.New("the answer has no generation")
}

// conn is for one conversation, with room for this many bytes in one transaction.
func conn(room int) (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(
			c.SetWriteBuffer(room),
			// A refusal would come with the whole message that is refused, and many of them fit no buffer.
			c.SetOption(netlink.CapAcknowledge, true),
			c.SetDeadline(time.Now().Add(patience)),
		)
	}))
}

func (n nfTables) look(withElements bool) (sight, error) {
	s, err := n.read(withElements)
	if err != nil {
		return sight{}, fmt.Errorf("read table inet %s: %w", n.layout.table.Name, explain(err))
	}
	return s, nil
}

func (n nfTables) read(withElements bool) (s sight, err error) {
	c, err := conn(tableSize)
	if err != nil {
		return s, err
	}
	t, err := c.ListTableOfFamily(n.layout.table.Name, n.layout.table.Family)
	if errors.Is(err, unix.ENOENT) {
		return sight{absent: true}, nil
	} else if err != nil {
		return s, err
	}
	s.flags = t.Flags
	if s.sets, err = c.GetSets(n.layout.table); err != nil {
		return s, err
	}
	chains, err := c.ListChainsOfTableFamily(n.layout.table.Family)
	if err != nil {
		return s, err
	}
	for _, ch := range chains {
		if ch.Table.Name != n.layout.table.Name {
			continue
		}
		s.chains = append(s.chains, ch)
		rules, err := c.GetRules(n.layout.table, ch)
		if err != nil {
			return s, err
		}
		s.rules = append(s.rules, rules...)
	}
	if !withElements {
		return s, nil
	}
	s.elements = elements{}
	for _, set := range s.sets {
		if s.elements[set.Name], err = c.GetSetElements(set); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (n nfTables) apply(c change) error {
	var err error
	switch {
	case c.nothing():
		return nil
	case c.remove:
		err = n.remove()
	case c.rebuild:
		if err = n.rebuild(c); errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("write table inet %s: %w: the kernel lacks a part; load the modules nf_tables, nft_ct and nf_conntrack", n.layout.table.Name, unix.ENOENT)
		}
	default:
		err = n.update(c)
	}
	if err != nil {
		return fmt.Errorf("write table inet %s: %w", n.layout.table.Name, explain(err))
	}
	return nil
}

func (n nfTables) remove() error {
	c, err := conn(tableSize)
	if err != nil {
		return err
	}
	c.DelTable(n.layout.table)
	if err := c.Flush(); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func (n nfTables) rebuild(ch change) error {
	c, err := conn(tableSize + ch.add.count()*elementSize)
	if err != nil {
		return err
	}
	c.AddTable(n.layout.table) // so that there is one to delete
	c.DelTable(n.layout.table)
	c.AddTable(n.layout.table)
	for _, s := range n.layout.sets {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, chain := range n.layout.chains {
		c.AddChain(chain)
	}
	for _, r := range n.layout.rules {
		c.AddRule(r)
	}
	if err := n.each(ch.add, c.SetAddElements); err != nil {
		return err
	}
	return c.Flush()
}

func (n nfTables) update(ch change) error {
	c, err := conn(tableSize + (ch.add.count()+ch.del.count())*elementSize)
	if err != nil {
		return err
	}
	err = errors.Join(n.each(ch.del, c.SetDeleteElements), n.each(ch.add, c.SetAddElements))
	if err != nil {
		return err
	}
	return c.Flush()
}

// each does something with the elements of each set, in portions that fit.
func (n nfTables) each(of elements, do func(*nftables.Set, []nftables.SetElement) error) error {
	for _, s := range n.layout.sets {
		for some := range slices.Chunk(of[s.Name], chunk) {
			if err := do(s, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// explain says what to do about what the kernel says. Of many refusals - there is one for each message of a
// transaction - it tells the first.
func explain(err error) error {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return err
	}
	switch number {
	case unix.EPERM:
		return fmt.Errorf("%w: the capability CAP_NET_ADMIN is needed", number)
	case unix.EINVAL, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT:
		// Without the subsystem the answer is EINVAL to a question and EOPNOTSUPP to a transaction
		// (net/netfilter/nfnetlink.c), without nfnetlink there is no such socket.
		return fmt.Errorf("%w: does this kernel have nf_tables? load the module nf_tables", number)
	case unix.EMSGSIZE:
		return fmt.Errorf("%w: too much for one transaction; raise net.core.wmem_max, for want of CAP_NET_ADMIN in the initial user namespace", number)
	}
	return number
}
